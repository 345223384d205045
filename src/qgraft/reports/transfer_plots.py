"""Figures of the transfer studies as SVG text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from qgraft.reports.plots import BLUE, GREY, ORANGE, _drawing, _grid, _svg

QUANTUM = ("dressed", "photonic", "layer A")
EDGE = 2.2


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
    is_quantum = any(word in row["model"] for word in QUANTUM)
    colour = ORANGE if is_quantum else BLUE
    low, high, mean = (100 * row[f"accuracy_{k}"] for k in ("min", "max", "mean"))
    spread = 100 * row["accuracy_std"]
    panel.plot([low, high], [y, y], color=GREY, linewidth=1)
    panel.plot([mean - spread, mean + spread], [y, y], color=colour, linewidth=3, alpha=0.5)
    panel.plot(mean, y, "o", color=colour, markersize=6)
    if row["published"] is not None:
        panel.plot(100 * row["published"], y, "D", markersize=5, markerfacecolor="white",
                   markeredgecolor="#1d2430")  # fmt: skip


def decision_maps(tensors: Mapping[str, Any]) -> str:
    """Draw what a network says all over the plane, with test points: shapes by models.

    Args:
        tensors: maps `<shape>/<model>`, `points.<shape>` and `labels.<shape>`.
    """
    names = [name for name in tensors if "/" in name]
    shapes = list(dict.fromkeys(name.split("/")[0] for name in names))
    models = list(dict.fromkeys(name.split("/")[1] for name in names))
    if not names:
        return ""
    with _drawing():
        figure, axes = _grid(len(shapes), len(models), (2.1, 2.2), sharex=True, sharey=True)
        for shape, line in zip(shapes, axes, strict=True):
            points, labels = tensors[f"points.{shape}"].numpy(), tensors[f"labels.{shape}"].numpy()
            for model, panel in zip(models, line, strict=True):
                values = tensors[f"{shape}/{model}"].numpy()
                panel.imshow(np.asarray(values), origin="lower", extent=(-EDGE, EDGE, -EDGE, EDGE),
                             cmap="RdBu_r", vmin=0, vmax=1, alpha=0.75)  # fmt: skip
                for label, colour in ((0, BLUE), (1, ORANGE)):
                    panel.plot(*points[labels == label].T, ".", color=colour, markersize=2)
                panel.set_title(f"{model}\n{shape}", fontsize=7)
                panel.set_xticks([])
                panel.set_yticks([])
        return _svg(figure)
