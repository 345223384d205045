"""Published accuracies of the QCNN transfer study, as read off its figures (arXiv 2208.14708).

Means of ten repetitions in per cent, amplitude embedding, features of Fashion-MNIST, for the MNIST
pairs 0-1, 2-3 and 8-9; uncertain by 0.15 from reading, and up to 0.5 where a line hides a marker.
"""

from __future__ import annotations

PUBLISHED_PAIRS = ("0-1", "2-3", "8-9")

_ZX_AND_GENERALISED = {
    "cz": ((89.3, 68.1, 63.1), (97.6, 82.7, 82.8)),
    "ttn": ((97.4, 75.8, 78.8), (98.8, 85.0, 82.7)),
    "u9": ((94.7, 75.5, 76.9), (98.5, 84.4, 85.2)),
    "u15": ((97.9, 83.9, 83.8), (98.9, 87.2, 85.6)),
    "u13": ((97.4, 80.4, 84.3), (99.0, 87.5, 85.3)),
    "u14": ((96.8, 81.4, 85.3), (98.5, 86.8, 85.8)),
    "so4": ((98.5, 85.2, 86.0), (98.8, 87.2, 84.9)),
    "u5": ((98.8, 79.5, 85.6), (98.8, 88.1, 87.1)),
    "u6": ((99.0, 84.2, 86.9), (99.0, 88.3, 86.1)),
    "su4": ((98.4, 87.0, 88.2), (99.3, 89.1, 88.1)),
}
PUBLISHED_QCNN: dict[tuple[str, str], tuple[float, float, float]] = {
    **{(name, "zx"): zx for name, (zx, _) in _ZX_AND_GENERALISED.items()},
    **{(name, "generalised"): general for name, (_, general) in _ZX_AND_GENERALISED.items()},
    ("su4", "trivial"): (98.4, 83.6, 88.0),
    ("cu3", "trivial"): (95.4, 82.3, 86.6),
}
PUBLISHED_CONTROLS: dict[str, tuple[float, float, float]] = {
    "1D-64": (95.21, 75.48, 74.76),
    "2D-76": (97.30, 74.63, 81.53),
}


def published_accuracy(values: tuple[float, float, float] | None, pair: str) -> float | None:
    """Return the published accuracy of a pair as a fraction, None where nothing was published."""
    if values is None or pair not in PUBLISHED_PAIRS:
        return None
    return round(values[PUBLISHED_PAIRS.index(pair)] / 100, 6)
