"""Figures of the transfer studies as SVG text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from qgraft.reports.plots import BLUE, ORANGE, _drawing, _grid, _svg

INK = "#1d2430"
SPOTS = ("#003a5c", "#6e2f00")  # points of the two classes: blue and orange, darker
QUANTUM = ("dressed", "(QC)", "(QQ)")  # what the title of a quantum model has
EDGE, COLUMNS = 2.2, 4
STEP, LEVELS = 2, 16  # maps are drawn on every other point of their grid, in so many colours


def is_quantum(model: str) -> bool:
    """Return whether a model's title is that of a quantum model."""
    return any(word in model for word in QUANTUM)


def accuracy_dots(rows: Sequence[Mapping[str, Any]]) -> str:
    """Draw mean, spread and range over seeds of every model, a panel per task."""
    tasks = list(dict.fromkeys(row["task"] for row in rows))
    most = max(sum(row["task"] == task for row in rows) for task in tasks)
    with _drawing():
        figure, axes = _grid(len(tasks), 1, (8.0, 0.7 + 0.32 * most))
        for panel, task in zip(axes[:, 0], tasks, strict=True):
            here = [row for row in rows if row["task"] == task]
            for y, row in enumerate(here):
                _dot(panel, y, row)
            panel.set_yticks(range(len(here)), [row["model"] for row in here])
            panel.set_ylim(len(here) - 0.4, -0.6)
            panel.set_title(task)
            panel.grid(visible=False, axis="y")
        axes[-1, 0].set_xlabel("accuracy, %; diamonds: published")
        return _svg(figure)


def _dot(panel: Any, y: int, row: Mapping[str, Any]) -> None:
    colour = ORANGE if is_quantum(row["model"]) else BLUE
    low, high, mean = (100 * row[f"accuracy_{k}"] for k in ("min", "max", "mean"))
    spread = 100 * row["accuracy_std"]
    ends = [max(mean - spread, 0), min(mean + spread, 100)]
    panel.plot(ends, [y, y], color=colour, linewidth=6, alpha=0.3, solid_capstyle="butt")
    panel.plot([low, high], [y, y], color=colour, linewidth=1)
    panel.plot(mean, y, "o", color=colour, markersize=6)
    if row["published"] is not None:
        panel.plot(100 * row["published"], y, "D", markersize=5, markerfacecolor="white",
                   markeredgecolor=INK)  # fmt: skip


def decision_maps(tensors: Mapping[str, Any], shape: str, models: Sequence[str]) -> str:
    """Draw what networks say all over the plane, with the test points.

    Args:
        tensors: maps `<shape>/<model>`, `points.<shape>` and `labels.<shape>`.
        shape: which of the shapes.
        models: titles of the panels, in order.
    """
    from matplotlib.colors import LinearSegmentedColormap

    colours = LinearSegmentedColormap.from_list("classes", (BLUE, "white", ORANGE), LEVELS)
    points, labels = tensors[f"points.{shape}"].numpy(), tensors[f"labels.{shape}"].numpy()
    n_rows = -(-len(models) // COLUMNS)
    with _drawing():
        figure, axes = _grid(n_rows, COLUMNS, (2.1, 2.3))
        for panel in axes.flat[len(models) :]:
            panel.set_axis_off()
        for model, panel in zip(models, axes.flat, strict=False):
            values = tensors[f"{shape}/{model}"].numpy()[::STEP, ::STEP]
            panel.imshow(values, origin="lower", extent=(-EDGE, EDGE, -EDGE, EDGE), alpha=0.75,
                         cmap=colours, vmin=0, vmax=1, interpolation="none")  # fmt: skip
            for label, colour in enumerate(SPOTS):
                _spots(panel, points[labels == label], colour)
            panel.set_title(model, fontsize=7)
            panel.set(xticks=[], yticks=[], xlim=(-EDGE, EDGE), ylim=(-EDGE, EDGE))
            panel.grid(visible=False)
        return _svg(figure)


def _spots(panel: Any, points: np.ndarray, colour: str) -> None:
    """Draw points as one path of short strokes, a tenth of the size of as many markers."""
    x, y = np.repeat(points, 3, axis=0).T
    x[1::3] += 1e-3
    x[2::3] = np.nan
    panel.plot(x, y, color=colour, linewidth=2.2, solid_capstyle="round")
