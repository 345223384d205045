"""A circuit under inspection: numbers for a person and for a file."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from qgraft.circuits.circuit import Circuit, inert_weights
from qgraft.errors import ConfigError
from qgraft.evaluation.diagnostics import (
    Parameter,
    effective_dimension,
    entangling_capability,
    expressibility,
    fourier_spectrum,
    gradient_variance,
    light_cone,
)
from qgraft.evaluation.sim_descriptors import Descriptors

if TYPE_CHECKING:
    from rich.table import Table
    from torch import Tensor

MAX_QUBITS = 12


def facts_of(
    circuit: Circuit, weights: Tensor | None = None, *, n_samples: int = 1000, seed: int = 0
) -> dict[str, Any]:
    """Return what is known about a circuit: `summary`, `parameters`, `spectrum`, `drawing`.

    Raises:
        ConfigError: the circuit is too wide, or too few samples were asked for.
    """
    if circuit.n_qubits > MAX_QUBITS:
        raise ConfigError(f"circuits of up to {MAX_QUBITS} qubits, got {circuit.n_qubits}")
    check_samples(n_samples)
    inert = inert_weights(circuit)
    rows = gradient_variance(circuit, min(n_samples, 500), seed)
    dimension = effective_dimension(circuit, weights, seed=seed)
    spectrum = [] if circuit.amplitudes else fourier_spectrum(circuit, weights, seed=seed).tolist()
    summary = {
        "qubits": circuit.n_qubits,
        "gates": len(circuit.ops),
        "inputs": circuit.n_angles,
        "weights": circuit.n_weights,
        "weights without effect": list(inert),
        "weights that act independently": dimension.weights,
        "qubits in the light cone": light_cone(circuit),
        "expressibility (divergence from Haar, 0 is best)": round(
            expressibility(circuit, n_samples, seed), 4
        ),
        "entangling capability (0 to 1)": round(entangling_capability(circuit, n_samples, seed), 4),
        "effective dimension of the read-out": f"{dimension.spread:.2f} of {dimension.read}",
        "highest frequency in an input": max((len(row) - 1 for row in spectrum), default=0),
    }
    return {
        "summary": summary,
        "parameters": rows,
        "spectrum": spectrum,
        "circuit": circuit.to_json(),
        "drawing": circuit.draw(),
    }


def check_samples(n_samples: int) -> None:
    """Refuse too few or too many random draws.

    Raises:
        ConfigError: not from 10 to 100,000.
    """
    if not 10 <= n_samples <= 100_000:
        raise ConfigError(f"samples must be from 10 to 100,000, got {n_samples}")


def parameter_table(rows: Sequence[Parameter]) -> Table:
    """Return the parameters with the variance of their gradients."""
    from rich.table import Table

    table = Table(caption="Variance of the gradient of the first read-out over random numbers.")
    for title in ("parameter", "gate", "qubit", "column", "variance", ""):
        table.add_column(title, justify="left" if title in ("parameter", "gate", "") else "right")
    for row in rows:
        table.add_row(
            f"{row['source']} {row['index']}",
            row["gate"],
            str(row["qubit"]),
            str(row["column"]),
            f"{row['variance']:.2e}",
            "no effect" if row["inert"] else "",
        )
    return table


def template_table(rows: Sequence[Descriptors]) -> Table:
    """Return the templates of Sim et al., most expressive last, with what was published."""
    from rich.table import Table

    table = Table(
        caption="Expressibility: divergence from Haar, 0 is best. Entangling: Meyer-Wallach, "
        "0 to 1; the published numbers are those of normalised halves."
    )
    titles = ("layers", "template", "expressibility", "published KL", "entangling", "normalised")
    for title in (*titles, "published Q"):
        table.add_column(title, justify="right")
    for row in sorted(rows, key=lambda row: (row.layers, -row.expressibility)):
        table.add_row(str(row.layers), str(row.template), *(f"{value:.4f}" for value in row[2:]))
    return table
