"""Figures of the QCNN transfer study as SVG text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from qgraft.reports.plots import BLUE, GREEN, GREY, MARKERS, ORANGE, _drawing, _grid, _svg

POOLINGS = {"zx": ("ZX", BLUE), "generalised": ("generalised", ORANGE), "trivial": ("none", GREEN)}
BAR = 0.27
TICKS = (10, 30, 100, 300, 1000)


def accuracy_bars(rows: Sequence[Mapping[str, Any]]) -> str:
    """Draw the accuracy of every network, a panel per pair, published values as diamonds."""
    pairs = list(dict.fromkeys(row["pair"] for row in rows))
    blocks = list(dict.fromkeys(row["ansatz"] for row in rows))
    with _drawing():
        figure, axes = _grid(len(pairs), 1, (10.5, 2.3))
        for panel, pair in zip(axes[:, 0], pairs, strict=True):
            here = [row for row in rows if row["pair"] == pair]
            for number, (pooling, (label, colour)) in enumerate(POOLINGS.items()):
                shown = [row for row in here if row["pooling"] == pooling]
                x = [blocks.index(row["ansatz"]) + (number - 1) * BAR for row in shown]
                means = [100 * row["accuracy_mean"] for row in shown]
                spread = [100 * row["accuracy_std"] for row in shown]
                style = {"color": colour, "alpha": 0.8, "label": label if shown else None}
                panel.bar(x, means, BAR * 0.92, **style)
                panel.errorbar(x, means, spread, fmt="none", ecolor="#1d2430", elinewidth=1)
                _published(panel, x, shown)
            low = min(100 * (row["accuracy_mean"] - row["accuracy_std"]) for row in here)
            panel.set_ylim(max(0.0, min(low, _lowest_published(here)) - 3), 100.5)
            panel.set_xticks(range(len(blocks)), blocks)
            panel.set_ylabel("accuracy, %")
            panel.set_title(f"Pair {pair}")
            panel.grid(visible=False, axis="x")
        handles, labels = axes[0, 0].get_legend_handles_labels()
        found = dict(zip(labels, handles, strict=True))
        figure.legend(found.values(), found.keys(), loc="outside lower center", ncols=len(found))
        return _svg(figure)


def _published(panel: Any, x: Sequence[float], rows: Sequence[Mapping[str, Any]]) -> None:
    points = [(at, 100 * r["published"]) for at, r in zip(x, rows, strict=True) if r["published"]]
    if points:
        panel.plot(
            *zip(*points, strict=True), "D", markersize=5, markerfacecolor="white",
            markeredgecolor="#1d2430", label="published",
        )  # fmt: skip


def _lowest_published(rows: Sequence[Mapping[str, Any]]) -> float:
    return min((100 * row["published"] for row in rows if row["published"]), default=100.0)


def accuracy_by_parameters(
    rows: Sequence[Mapping[str, Any]], controls: Sequence[Mapping[str, Any]]
) -> str:
    """Draw accuracy against the number of parameters, a panel per pair, classical heads in grey."""
    from matplotlib.ticker import FixedLocator, NullLocator, ScalarFormatter

    pairs = list(dict.fromkeys(row["pair"] for row in rows))
    names = list(dict.fromkeys(row["model"] for row in controls))
    with _drawing():
        figure, axes = _grid(1, len(pairs), (3.6, 3.8))
        for panel, pair in zip(axes[0], pairs, strict=True):
            for pooling, (label, colour) in POOLINGS.items():
                shown = [r for r in rows if r["pair"] == pair and r["pooling"] == pooling]
                _points(panel, shown, colour, "o", f"QCNN, {label}")
            for number, name in enumerate(names):
                shown = [r for r in controls if r["pair"] == pair and r["model"] == name]
                _points(panel, shown, GREY, MARKERS[1 + number % (len(MARKERS) - 1)], name,
                        hollow="tuned" in name)  # fmt: skip
            panel.set_xscale("log")
            panel.xaxis.set_major_locator(FixedLocator(TICKS))
            panel.xaxis.set_minor_locator(NullLocator())
            panel.xaxis.set_major_formatter(ScalarFormatter())
            panel.set_xlabel("parameters")
            panel.set_title(f"Pair {pair}")
        axes[0, 0].set_ylabel("accuracy, %")
        handles, labels = axes[0, 0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=4)
        return _svg(figure)


def _points(
    panel: Any,
    rows: Sequence[Mapping[str, Any]],
    colour: str,
    marker: str,
    label: str,
    *,
    hollow: bool = False,
) -> None:
    if rows:
        panel.errorbar(
            [row["params"] for row in rows],
            [100 * row["accuracy_mean"] for row in rows],
            [100 * row["accuracy_std"] for row in rows],
            fmt=marker, color=colour, markersize=4, elinewidth=0.8, alpha=0.85, label=label,
            markerfacecolor="white" if hollow else colour,
        )  # fmt: skip


def cost_lines(curves: Mapping[str, Sequence[float]]) -> str:
    """Draw the mean cost of a batch while training, a panel per pair; empty without curves."""
    pairs = list(dict.fromkeys(name.rpartition("/")[2] for name in curves))
    if not pairs:
        return ""
    with _drawing():
        figure, axes = _grid(1, len(pairs), (3.6, 2.8), sharey=True)
        for panel, pair in zip(axes[0], pairs, strict=True):
            for name, costs in curves.items():
                model, _, of = name.rpartition("/")
                pooling = model.rpartition(" ")[2]
                if of != pair or pooling not in POOLINGS:
                    continue
                steps = [5 * (k + 1) for k in range(len(costs))]
                best = model.startswith("su4 ")
                label = model if best else None
                colour = POOLINGS[pooling][1]
                panel.plot(
                    steps, costs, color=colour, label=label, linewidth=1.8 if best else 0.6,
                    alpha=1.0 if best else 0.35,
                )  # fmt: skip
            panel.set_xlabel("step")
            panel.set_title(f"Pair {pair}")
        axes[0, 0].set_ylabel("cross-entropy of a batch")
        handles, labels = axes[0, 0].get_legend_handles_labels()
        if handles:
            axes[0, -1].legend(handles, labels, loc="upper right")
        return _svg(figure)
