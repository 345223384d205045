"""Figures of deciding and adapting: reliability curves, learning from few examples, its cost."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from qgraft.reports.plots import BLUE, GREY, HYBRIDS, _drawing, _grid, _short, _svg

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Row = Mapping[str, Any]


def reliability_curves(quality: Mapping[str, Mapping[str, Any]]) -> str:
    """Draw how often images are anomalous over how probable the model calls it.

    Args:
        quality: model name to `quality` as made by `evaluation.calibration.holdout_facts`; one
            panel each.
    """
    n_columns = min(3, len(quality))
    with _drawing():
        figure, grid = _grid(math.ceil(len(quality) / n_columns), n_columns, (3.3, 3.9))
        for axes in grid.flat[len(quality) :]:
            axes.set_visible(False)
        for axes, (name, versions) in zip(grid.flat, quality.items(), strict=False):
            axes.plot([0, 1], [0, 1], color="#c3c8d0", linestyle=(0, (4, 3)), linewidth=1)
            for (version, facts), colour in zip(versions.items(), (GREY, BLUE), strict=False):
                _reliability(axes, version, facts, colour)
            axes.set_title(_short(name))
            axes.set(xlabel="score", ylabel="share anomalous", box_aspect=1)
            axes.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.03))
            axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.18), fontsize=8)
        return _svg(figure)


def _reliability(axes: Axes, version: str, facts: Mapping[str, Any], colour: str) -> None:
    curve, (low, high) = facts["curve"], facts["calibration_error_interval"]
    # one standard error of a share, by Agresti and Coull, which never has zero width
    shares = [
        (share * n + 2) / (n + 4)
        for share, n in zip(curve["observed"], curve["count"], strict=True)
    ]
    errors = [math.sqrt(p * (1 - p) / (n + 4)) for p, n in zip(shares, curve["count"], strict=True)]
    label = f"{version}: error {facts['calibration_error']:.3f} ({low:.3f} to {high:.3f})"
    axes.errorbar(
        curve["predicted"], curve["observed"], yerr=errors, fmt="o-", markersize=4, capsize=2,
        elinewidth=0.9, color=colour, label=label,
    )  # fmt: skip


def few_examples(rows: Sequence[Row]) -> str:
    """Draw recall on the new type and F1 on the old ones over the number of examples.

    A column per left-out type, a colour per head: lines are means over seeds, bands one standard
    deviation either way, dotted lines the new type's good steel called anomalous.
    """
    types = list(dict.fromkeys(row["left_out"] for row in rows))
    colours = head_colours(rows)
    with _drawing():
        figure, grid = _grid(2, len(types), (2.3, 2.35), sharey="row", sharex=True)
        for column, left_out in enumerate(types):
            for head, colour in colours.items():
                chosen = [r for r in rows if r["left_out"] == left_out and r["head"] == head]
                _line(grid[0, column], chosen, "recall_new", colour, head)
                _line(grid[1, column], chosen, "f1_old", colour, head)
                _line(grid[0, column], chosen, "false_alarms_new", colour, "", dotted=True)
            grid[0, column].set_title(_short(left_out, 20))
            grid[0, column].set_ylim(-3, 103)
            grid[1, column].set_xlabel("examples of the new type")
        grid[0, 0].set_ylabel("found of the new type, %")
        grid[1, 0].set_ylabel("F1 on the old types, %")
        grid[0, 0].plot([], [], ":", color=GREY, label="false alarms there")
        handles, labels = grid[0, 0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper right", ncols=len(labels))
        return _svg(figure)


def head_colours(rows: Sequence[Row]) -> dict[str, str]:
    """Return one colour for each head, in the order of the rows."""
    heads = dict.fromkeys(row["head"] for row in rows)
    return {head: HYBRIDS[i % len(HYBRIDS)] for i, head in enumerate(heads)}


def _line(
    axes: Axes, rows: Sequence[Row], name: str, colour: str, label: str, *, dotted: bool = False
) -> None:
    places = list(range(len(rows)))  # evenly spaced: 0, 5, 10, 20, 50 is neither linear nor log
    mean = [100 * row[f"{name}_mean"] for row in rows]
    if dotted:
        axes.plot(places, mean, ":", color=colour, linewidth=1.3)
    else:
        spread = [100 * row[f"{name}_std"] for row in rows]
        low = [max(m - s, 0.0) for m, s in zip(mean, spread, strict=True)]
        high = [min(m + s, 100.0) for m, s in zip(mean, spread, strict=True)]
        axes.fill_between(places, low, high, color=colour, alpha=0.16, linewidth=0)
        axes.plot(places, mean, "o-", markersize=3.5, color=colour, label=label)
    axes.set_xticks(places, [str(row["shots"]) for row in rows])


def seconds_bars(seconds: Mapping[str, float], colours: Mapping[str, str]) -> str:
    """Draw how long each way of learning the new type takes, on a logarithmic scale.

    Args:
        seconds: name of the way to seconds, in the order of the bars.
        colours: of heads; a name that begins with that of a head takes its colour.
    """
    names = list(seconds)
    places = [-float(i) for i in range(len(names))]
    with _drawing():
        figure, grid = _grid(1, 1, (8.0, 0.75 + 0.36 * len(names)))
        axes = grid[0, 0]
        shades = [colours.get(name.split(" ")[0], GREY) for name in names]
        axes.barh(places, list(seconds.values()), height=0.62, color=shades)
        for place, value in zip(places, seconds.values(), strict=True):
            text = f"{value:.2g} s" if value < 10 else f"{value:,.0f} s"
            axes.annotate(
                text, (value, place), xytext=(5, 0), textcoords="offset points", va="center"
            )
        axes.set_yticks(places, [_short(name, 40) for name in names])
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.set_xlim(min(seconds.values()) / 2, max(seconds.values()) * 4)
        axes.set_xlabel("seconds (logarithmic)")
        axes.grid(visible=False, axis="y")
        axes.tick_params(axis="y", length=0)
        return _svg(figure)
