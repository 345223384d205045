"""Descriptors of the nineteen templates of Sim et al. beside the published ones.

Four qubits, one and three layers (arXiv 1905.10876, figures 3 and 4; Adv. Quantum Technol. 2,
1900070; the numbers as quoted in the tests of the project cirKITers/qml-essentials). The published
entangling capability is not the Meyer-Wallach measure that the paper defines: it is what comes out
when the two halves of a state are normalised before they are compared.
"""

from __future__ import annotations

from typing import NamedTuple

from qgraft.circuits.sim import TEMPLATES, sim_circuit
from qgraft.evaluation.diagnostics import entangling_capability, expressibility

LAYERS = (1, 3)


class Published(NamedTuple):
    """Published descriptors of one template, each for one and three layers."""

    expressibility: tuple[float, float]
    entangling: tuple[float, float]


PUBLISHED = {
    1: Published((0.2999, 0.2079), (0.0000, 0.0000)),
    2: Published((0.2860, 0.0084), (0.8104, 0.8657)),
    3: Published((0.2396, 0.0403), (0.3412, 0.5852)),
    4: Published((0.1343, 0.0107), (0.4721, 0.6607)),
    5: Published((0.0602, 0.0030), (0.4090, 0.7953)),
    6: Published((0.0043, 0.0039), (0.7781, 0.8721)),
    7: Published((0.0977, 0.0162), (0.3241, 0.6194)),
    8: Published((0.0858, 0.0122), (0.3926, 0.6567)),
    9: Published((0.6773, 0.0322), (1.0000, 1.0000)),
    10: Published((0.2286, 0.1297), (0.5362, 0.7865)),
    11: Published((0.1312, 0.0038), (0.7335, 0.8288)),
    12: Published((0.1984, 0.0089), (0.6486, 0.7838)),
    13: Published((0.0516, 0.0049), (0.6077, 0.8224)),
    14: Published((0.0144, 0.0035), (0.6604, 0.8557)),
    15: Published((0.1892, 0.1152), (0.8184, 0.8734)),
    16: Published((0.2602, 0.0375), (0.3439, 0.5859)),
    17: Published((0.1359, 0.0180), (0.4533, 0.6557)),
    18: Published((0.2340, 0.0221), (0.4385, 0.7130)),
    19: Published((0.0809, 0.0040), (0.5916, 0.7906)),
}


class Descriptors(NamedTuple):
    """One template with so many layers, measured and published.

    Attributes:
        entangling: mean Meyer-Wallach measure.
        entangling_normalised: the same of normalised halves, to compare with what was published.
    """

    template: int
    layers: int
    expressibility: float
    published_expressibility: float
    entangling: float
    entangling_normalised: float
    published_entangling: float


def template_descriptors(n_samples: int = 5000, seed: int = 0) -> list[Descriptors]:
    """Measure all templates at four qubits, one and three layers; published are 5,000 samples."""
    return [
        _measured(number, layers, PUBLISHED[number], n_samples, seed)
        for layers in LAYERS
        for number in TEMPLATES
    ]


def _measured(
    number: int, layers: int, published: Published, n_samples: int, seed: int
) -> Descriptors:
    circuit, at = sim_circuit(number, layers=layers), LAYERS.index(layers)
    return Descriptors(
        number,
        layers,
        expressibility(circuit, n_samples, seed),
        published.expressibility[at],
        entangling_capability(circuit, n_samples, seed),
        entangling_capability(circuit, n_samples, seed, normalised=True),
        published.entangling[at],
    )


def order_agreement(rows: list[Descriptors]) -> dict[str, float]:
    """Return Spearman's rank correlation with what was published, for each descriptor."""
    from scipy.stats import spearmanr

    pairs = {
        "expressibility": ("expressibility", "published_expressibility"),
        "entangling capability": ("entangling", "published_entangling"),
        "entangling capability, normalised halves": (
            "entangling_normalised",
            "published_entangling",
        ),
    }
    agreement = {}
    for name, (ours, published) in pairs.items():
        for layers in sorted({row.layers for row in rows}):
            of_layers = [row for row in rows if row.layers == layers]
            columns = ([getattr(row, key) for row in of_layers] for key in (ours, published))
            agreement[f"{name}, layers {layers}"] = float(spearmanr(*columns).statistic)  # pyright: ignore
    return agreement
