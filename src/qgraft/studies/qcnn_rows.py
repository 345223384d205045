"""Rows, comparisons and curves of the QCNN study, all computed from its trained cells."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from qgraft.circuits.qcnn import qcnn_circuit
from qgraft.config import QcnnConfig
from qgraft.evaluation.statistics import bootstrap_mean, corrected_paired_test, holm
from qgraft.studies.qcnn_cells import Scores
from qgraft.studies.qcnn_published import (
    PUBLISHED_CONTROLS,
    PUBLISHED_QCNN,
    published_accuracy,
)

EMBEDDED = "embedded"  # the setting `data` of a quick run
CURVE_EVERY = 5  # steps averaged into one point of a curve


class Cell(NamedTuple):
    """A trained cell: `model` is a convolution block, or a control where `pooling` is empty."""

    model: str
    pooling: str
    pair: str
    learning_rate: float | None
    scores: Scores


def model_row(cell: Cell, config: QcnnConfig) -> dict[str, Any]:
    """Return the row of a quantum convolutional network; accuracies are fractions."""
    embedding = config.embedding
    n_angles = qcnn_circuit(cell.model, cell.pooling, embedding).n_weights
    published = PUBLISHED_QCNN.get((cell.model, cell.pooling)) if is_published(config) else None
    return {
        "ansatz": cell.model,
        "pooling": cell.pooling,
        "embedding": embedding,
        "pair": cell.pair,
        **_accuracies(cell),
        "params": n_angles,
        "published": published_accuracy(published, cell.pair),
    }


def is_published(config: QcnnConfig) -> bool:
    """Tell whether the task is the published one, so that accuracies can stand side by side."""
    here = (config.embedding, config.inputs, config.target)
    return here == ("amplitude", "transfer", "mnist") and config.data != EMBEDDED


def control_row(cell: Cell, config: QcnnConfig) -> dict[str, Any]:
    """Return the row of a classical or tuned head."""
    published = PUBLISHED_CONTROLS.get(cell.model) if is_published(config) else None
    return {
        "model": cell.model,
        "pair": cell.pair,
        **_accuracies(cell),
        "params": cell.scores.n_params,
        "learning_rate": cell.learning_rate,
        "published": published_accuracy(published, cell.pair),
    }


def _accuracies(cell: Cell) -> dict[str, Any]:
    values = cell.scores.accuracies
    return {
        "accuracy_mean": _rounded(values.mean()),
        "accuracy_std": _rounded(values.std(ddof=1)) if len(values) > 1 else 0.0,
        "accuracy_best": _rounded(values.max()),
        "accuracies": [_rounded(value) for value in values],
        "n_seeds": len(values),
    }


def _rounded(value: float) -> float:
    return round(float(value), 6)


def comparisons(cells: Sequence[Cell]) -> list[dict[str, Any]]:
    """Return paired differences over the seeds: generalised against ZX, SU4 against controls.

    Head by head both sides saw the same batches. p values are two-sided and adjusted for all
    comparisons together (Holm 1979); they answer whether other seeds would decide otherwise.
    """
    by_name = {(c.model, c.pooling, c.pair): c for c in cells}
    pairs = dict.fromkeys(cell.pair for cell in cells)
    found = []
    for pair in pairs:
        for ansatz in dict.fromkeys(cell.model for cell in cells if cell.pooling):
            found.append((by_name.get((ansatz, "generalised", pair)),
                          by_name.get((ansatz, "zx", pair))))  # fmt: skip
        reference = by_name.get(("su4", "generalised", pair))
        controls = [cell for cell in cells if not cell.pooling and cell.pair == pair]
        found += [(reference, control) for control in controls]
    rows = [_compared(a, b) for a, b in found if a and b]
    adjusted = holm([row["p_value"] for row in rows]) if rows else []
    for row, p in zip(rows, adjusted, strict=True):
        row["p_adjusted"] = _rounded(p)
    return rows


def _compared(cell: Cell, other: Cell) -> dict[str, Any]:
    first, second = cell.scores.accuracies, other.scores.accuracies
    differences = first - (second if len(second) == len(first) else second.mean())
    interval = bootstrap_mean(differences)
    finite = np.isfinite([interval.low, interval.high]).all()
    return {
        "pair": cell.pair,
        "first": f"{cell.model} {cell.pooling}".strip(),
        "second": f"{other.model} {other.pooling}".strip(),
        "difference": _rounded(interval.mean),
        "low": _rounded(interval.low) if finite else None,
        "high": _rounded(interval.high) if finite else None,
        "p_value": _rounded(corrected_paired_test(differences, 1, 0).p_value),
    }


def cost_curves(cells: Sequence[Cell]) -> dict[str, list[float]]:
    """Return the mean cost over the seeds, averaged over five steps, of every cell."""
    curves = {}
    for cell in cells:
        costs = cell.scores.costs.mean(axis=0)
        whole = len(costs) - len(costs) % CURVE_EVERY
        if whole:
            points = costs[:whole].reshape(-1, CURVE_EVERY).mean(axis=1)
            name = f"{cell.model} {cell.pooling}".strip()
            curves[f"{name}/{cell.pair}"] = [_rounded(point) for point in points]
    return curves


def notes(config: QcnnConfig) -> list[str]:
    """Return what a reader must know before quoting a number."""
    found = [
        "All heads of a run share one trunk, so the spread is over initial angles and batches "
        "only, as published.",
    ]
    if config.controls and config.inputs == "transfer":
        found.append(
            "The published classical heads learn at a tenth of the circuits' rate and see the "
            "first 10,000 images only; the rows with a tuned rate take that handicap away."
        )
    if config.inputs != "transfer":
        found.append(
            f"No transfer: {config.inputs} of the pixels of each pair, scaled to angles from 0 to "
            "pi (arXiv 2108.00661)."
        )
    if config.data == EMBEDDED:
        found.append(
            "Quick run on the small digits that scikit-learn ships, with another source task: its "
            "accuracies cannot be compared with the published ones."
        )
    return found
