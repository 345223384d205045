"""Figures of several runs laid over one another, as SVG text."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

import numpy as np

from qgraft.reports.comparison import CURVES, Compared, describe_metric, mean_interval
from qgraft.reports.plots import GREY, HYBRIDS, _drawing, _grid, _short, _svg
from qgraft.reports.series import mean_curve

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_PANELS, MOST_ROWS = 12, 40
QUANTITIES = ("val_accuracy", "train_accuracy", "val_loss", "train_loss", "curve")
LABELS = {
    "val_accuracy": "validation accuracy, %", "train_accuracy": "training accuracy, %",
    "val_loss": "validation loss", "train_loss": "training loss", "curve": "value",
}  # fmt: skip


def shared_curves(compared: Compared) -> list[tuple[str, str]]:
    """Return the curves that all runs have, as names of rows and of what is measured."""
    found = []
    for name in compared.runs[0].curves:
        own = [run.curves.get(name, {}) for run in compared.runs]
        common = [q for q in QUANTITIES if all(curves.get(q) for curves in own)]
        if common:
            found.append((name, common[0]))
    return found


def run_colours(compared: Compared) -> dict[str, str]:
    """Return one colour for each run; the first, which is the reference, is grey."""
    others = [HYBRIDS[i % len(HYBRIDS)] for i in range(len(compared.runs) - 1)]
    names = [run.name for run in compared.runs]
    return dict(zip(names, [GREY, *others], strict=True))


def overlaid_curves(compared: Compared) -> str:
    """Draw a panel for each curve that all runs have: means as lines, worst to best as bands."""
    from matplotlib.ticker import MaxNLocator

    shown = shared_curves(compared)[:MOST_PANELS]
    if not shown:
        return ""
    n_columns = min(3, len(shown))
    n_rows = -(-len(shown) // n_columns)
    with _drawing():
        figure, grid = _grid(n_rows, n_columns, (10.0 / n_columns, 2.6))
        for axes, (name, quantity) in zip(grid.flat, shown, strict=False):
            for run in compared.runs:
                colour = run_colours(compared)[run.name]
                _curve(axes, run.curves[name], quantity, colour, _short(run.name, 40), run.study)
            axes.set_title(_short(name, 34))
            axes.set_ylabel(_label(quantity, compared.runs[0].study))
            axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        for axes in grid.flat[len(shown) :]:
            axes.set_visible(False)
        for number, axes in enumerate(grid.flat[: len(shown)]):
            if number + n_columns >= len(shown):
                axes.set_xlabel("epoch")
            if number % n_columns and shown[number][1] == shown[number - 1][1]:
                axes.set_ylabel("")
        handles, labels = grid[0, 0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper left", ncols=min(4, len(labels)))
        return _svg(figure)


def _label(quantity: str, study: str) -> str:
    return CURVES.get(study, LABELS[quantity]) if quantity == "curve" else LABELS[quantity]


def _curve(
    axes: Axes,
    curves: Mapping[str, list[list[float]]],
    quantity: str,
    colour: str,
    label: str,
    study: str,
) -> None:
    scale = 100.0 if "%" in _label(quantity, study) else 1.0
    mean = scale * np.array(mean_curve(curves[quantity]))
    columns = [[v for v in c if v is not None] for c in zip_longest(*curves[quantity])]
    low, high = (
        scale * np.array([min(c) for c in columns]),
        scale * np.array([max(c) for c in columns]),
    )
    epochs = np.arange(1, len(mean) + 1)
    if len(curves[quantity]) > 1:
        axes.fill_between(epochs, low, high, color=colour, alpha=0.16, linewidth=0)
    marks: dict[str, Any] = {"marker": "o", "markersize": 3} if len(mean) == 1 else {}
    axes.plot(epochs, mean, color=colour, label=label, **marks)


def score_dots(compared: Compared) -> str:
    """Draw every shared row: a dot per run at its mean, a bar for the interval of that mean."""
    rows = compared.rows[:MOST_ROWS]
    colours = run_colours(compared)
    n_runs = len(compared.runs)
    step = min(0.26, 0.7 / n_runs)
    with _drawing():
        height = 1.1 + max(0.3, 0.17 * n_runs) * len(rows)
        figure, grid = _grid(1, 1, (10.0, height))
        axes = grid[0, 0]
        for number, run in enumerate(compared.runs):
            shift = step * (number - (n_runs - 1) / 2)
            for line, name in enumerate(rows):
                scores = run.rows[name]
                interval = mean_interval(scores)
                if interval:
                    ends = [100 * end for end in interval]
                    axes.plot(ends, [line + shift] * 2, color=colours[run.name], linewidth=1.4)
                axes.plot(
                    100 * scores.mean, line + shift, "s" if number == 0 else "o",
                    color=colours[run.name], markersize=5, linestyle="none",
                    label=_short(run.name, 40) if line == 0 else None,
                )  # fmt: skip
        for line in range(1, len(rows)):
            axes.axhline(line - 0.5, color="#eef0f3", linewidth=0.8)
        axes.set_yticks(range(len(rows)), [_short(name, 52) for name in rows])
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.set_xlabel(f"{describe_metric(compared)}, %")
        axes.grid(visible=False, axis="y")
        axes.tick_params(axis="y", length=0)
        handles, labels = axes.get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper left", ncols=min(4, len(labels)))
        return _svg(figure)
