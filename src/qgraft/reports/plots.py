"""Figures of a run as SVG text: same numbers in, same bytes out.

Every function builds its own `Figure`, so no global state of matplotlib is touched. Letters are
drawn as paths and never parsed as formulas: a label may hold anything.
"""

from __future__ import annotations

import io
import math
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from qgraft.reports.tables import mean_and_std, percent, printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from qgraft.reports.rundir import Picture, Row, ShortcutControl

# Okabe and Ito's palette: told apart under the common colour-vision deficiencies.
GREY, BLUE, ORANGE, GREEN, PURPLE, SKY = (
    "#5f6670", "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9",
)  # fmt: skip
HYBRIDS = (BLUE, ORANGE, GREEN, PURPLE, SKY)
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
SETS = (("train", BLUE), ("val", ORANGE))
SET_NAMES = {"train": "training", "val": "validation"}

STYLE: dict[str, Any] = {
    "svg.fonttype": "path",
    "svg.hashsalt": "qgraft",
    "text.parse_math": False,
    "axes.formatter.use_mathtext": False,
    "font.family": "DejaVu Sans",
    "font.size": 9.0,
    "axes.titlesize": 10.0,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.edgecolor": "#9aa1ab",
    "axes.labelcolor": "#333a44",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e6e8ec",
    "grid.linewidth": 0.8,
    "xtick.color": "#5f6670",
    "ytick.color": "#5f6670",
    "text.color": "#1d2430",
    "legend.frameon": False,
    "lines.linewidth": 1.6,
    "figure.facecolor": "white",
}


@contextmanager
def _drawing() -> Iterator[None]:
    import matplotlib as mpl

    with mpl.rc_context(), warnings.catch_warnings():
        mpl.rcdefaults()
        mpl.rcParams.update(cast(Any, STYLE))  # its stubs list every key
        warnings.filterwarnings("ignore", message=r"Glyph \d+")  # drawn as an empty box
        yield


def _grid(n_rows: int, n_columns: int, size: tuple[float, float], **share: Any) -> Any:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(size[0] * n_columns, size[1] * n_rows), layout="constrained")
    return figure, figure.subplots(n_rows, n_columns, squeeze=False, **share)


def _svg(figure: Figure) -> str:
    out = io.StringIO()
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    figure.savefig(out, format="svg", metadata=nothing)
    # The comments only repeat the labels, and a label may hold what ends a comment.
    return re.sub(r"\n? *<!--.*?-->", "", out.getvalue(), flags=re.DOTALL)


def _short(text: str, length: int = 26) -> str:
    text = printable(text)
    return text if len(text) <= length else f"{text[: length - 1]}…"


def _colours(variants: Sequence[str]) -> dict[str, str]:
    hybrids = [v for v in dict.fromkeys(variants) if v != "classical"]
    return {"classical": GREY} | {v: HYBRIDS[i % len(HYBRIDS)] for i, v in enumerate(hybrids)}


def _models(rows: Sequence[Row]) -> list[str]:
    return list(dict.fromkeys(row["model"] for row in rows))


def learning_curves(
    curves: Mapping[str, list[list[Mapping[str, float | None]]]],
) -> str:
    """Draw loss and accuracy per epoch: a line for the mean, a band from worst to best fold.

    Args:
        curves: variant name to folds to epochs to `train_loss`, `train_accuracy`, `val_loss`,
            `val_accuracy`; the figures follow Fig. 4-6 of arXiv 2409.00228.
    """
    from matplotlib.ticker import MaxNLocator

    with _drawing():
        if len(curves) == 1:  # side by side: one column of two would leave the page empty
            figure, axes = _grid(1, 2, (4.6, 2.9))
            axes = axes.T
        else:
            figure, axes = _grid(2, len(curves), (2.9, 2.1), sharey="row", sharex="col")
        for column, (variant, folds) in enumerate(curves.items()):
            for row, quantity in enumerate(("loss", "accuracy")):
                for part, colour in SETS:
                    _band(axes[row, column], _stack(folds, f"{part}_{quantity}"), colour, part)
                axes[row, 0].set_ylabel(quantity if quantity == "loss" else "accuracy, %")
                axes[row, column].set_xlabel("epoch")
                axes[row, column].xaxis.set_major_locator(MaxNLocator(5, integer=True))
            word = "fold" if variant != "classical" else "run"
            count = f"{len(folds)} {word}{'s' if len(folds) != 1 else ''}"
            axes[0, column].set_title(f"{_short(variant)}  ({count})")
        for panel in axes.flat if len(curves) > 1 else ():
            panel.label_outer()
        handles, labels = axes[0, 0].get_legend_handles_labels()
        if handles:
            axes[1, -1].legend(handles, labels, loc="lower right")
        return _svg(figure)


def _stack(folds: list[list[Mapping[str, float | None]]], name: str) -> np.ndarray:
    """Return one quantity as (n_folds, n_epochs); NaN where a fold stopped or did not measure."""
    scale = 100.0 if name.endswith("accuracy") else 1.0
    stacked = np.full((len(folds), max(map(len, folds), default=0)), np.nan)
    for row, epochs in zip(stacked, folds, strict=True):
        values = [epoch.get(name) for epoch in epochs]
        row[: len(values)] = [np.nan if v is None else scale * v for v in values]
    return stacked[:, ~np.isnan(stacked).all(axis=0)]


def _band(axes: Axes, values: np.ndarray, colour: str, part: str) -> None:
    if not values.size:
        return
    epochs = np.arange(1, values.shape[1] + 1)
    low, high = np.nanmin(values, axis=0), np.nanmax(values, axis=0)
    axes.fill_between(epochs, low, high, color=colour, alpha=0.18, linewidth=0)
    style = {"marker": "o", "markersize": 3} if len(epochs) == 1 else {}
    axes.plot(epochs, np.nanmean(values, axis=0), color=colour, label=SET_NAMES[part], **style)


def f1_spread(rows: Sequence[Row], control: ShortcutControl | None) -> str:
    """Draw the mean F1 of every row with its spread, beside the published value."""
    colours = _colours([row["variant"] for row in rows])
    models = _models(rows)
    places = [-i - 0.8 * models.index(row["model"]) for i, row in enumerate(rows)]
    with _drawing():
        figure, grid = _grid(1, 1, (10.0, 0.9 + 0.27 * (1 - min(places))))
        axes = grid[0, 0]
        for y, row in zip(places, rows, strict=True):
            _f1_dot(axes, y, row, colours[row["variant"]])
        if control is not None and control["f1"] is not None:
            x = 100 * control["f1"]
            axes.axvline(x, color=GREY, linestyle=(0, (4, 3)), linewidth=1.2)
            axes.annotate(
                f"spectrum alone {x:.1f}", (x, 1.0), xycoords=("data", "axes fraction"),
                xytext=(4, 2), textcoords="offset points", color=GREY, fontsize=8,
            )  # fmt: skip
        axes.set_yticks(places, [f"{_short(r['model'])}  {_short(r['variant'])}" for r in rows])
        axes.set_xlabel("F1, % (dot: mean, bar: ± one standard deviation, diamond: published)")
        axes.grid(visible=False, axis="y")
        axes.tick_params(axis="y", length=0)
        axes.set_ylim(min(places) - 0.7, 0.9)
        return _svg(figure)


def _f1_dot(axes: Axes, y: float, row: Row, colour: str) -> None:
    spread = 100 * row["f1_std"] if row["n_folds"] > 1 else 0.0
    axes.errorbar(100 * row["f1_mean"], y, xerr=spread, fmt="o", color=colour, capsize=3)
    published = row.get("published_f1")
    if published is not None:
        axes.plot(100 * published, y, "D", color="none", markeredgecolor="black", markersize=7.5)
    axes.annotate(
        mean_and_std(row["f1_mean"], row["f1_std"], row["n_folds"]),
        (1.0, y), xycoords=("axes fraction", "data"), xytext=(6, 0),
        textcoords="offset points", va="center", color=colour, fontsize=8,
    )  # fmt: skip


def parameters_and_f1(rows: Sequence[Row]) -> str:
    """Draw mean F1 over the number of parameters: top left is better and smaller."""
    from matplotlib.ticker import LogLocator, NullLocator

    colours = dict(zip(_models(rows), [BLUE, ORANGE, GREEN, PURPLE, SKY, GREY] * 9, strict=False))
    markers = dict(zip(dict.fromkeys(r["variant"] for r in rows), MARKERS * 9, strict=False))
    with _drawing():
        figure, grid = _grid(1, 1, (10.0, max(3.6, 0.22 * (len(colours) + len(markers)))))
        axes = grid[0, 0]
        for row in rows:
            spread = 100 * row["f1_std"] if row["n_folds"] > 1 else 0.0
            axes.errorbar(
                row["params"], 100 * row["f1_mean"], yerr=spread, color=colours[row["model"]],
                marker=markers[row["variant"]], markersize=6.5, capsize=2, alpha=0.9, linewidth=1,
            )  # fmt: skip
        for name, marker in markers.items():
            axes.plot([], [], marker, color=GREY, label=_short(name))
        for name, colour in colours.items():
            axes.plot([], [], linewidth=5, color=colour, label=_short(name))
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set(xlabel="parameters (logarithmic)", ylabel="F1, %")
        axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5))
        return _svg(figure)


def roc_curves(predictions: Mapping[str, Mapping[str, tuple[np.ndarray, np.ndarray]]]) -> str:
    """Draw the ROC curve of every row, one panel per model.

    Args:
        predictions: model to variant to (labels 0/1 `(n,)`, scores `(n,)`), both classes present.
    """
    from sklearn.metrics import roc_auc_score, roc_curve

    colours = _colours([variant for rows in predictions.values() for variant in rows])
    n_columns = min(3, len(predictions))
    with _drawing():
        figure, grid = _grid(math.ceil(len(predictions) / n_columns), n_columns, (3.3, 3.2))
        for axes in grid.flat[len(predictions) :]:
            axes.set_visible(False)
        for axes, (model, rows) in zip(grid.flat, predictions.items(), strict=False):
            axes.plot([0, 1], [0, 1], color="#c3c8d0", linestyle=(0, (4, 3)), linewidth=1)
            for variant, (labels, scores) in rows.items():
                false_positives, true_positives, _ = roc_curve(labels, scores)
                label = f"{_short(variant, 20)}  {roc_auc_score(labels, scores):.3f}"
                axes.plot(false_positives, true_positives, color=colours[variant], label=label)
            axes.set_title(_short(model))
            axes.set(xlabel="false positive rate", ylabel="true positive rate", aspect="equal")
            axes.legend(loc="lower right", title="area under curve", alignment="right")
        return _svg(figure)


def confusion_matrices(rows: Sequence[Row], class_names: Sequence[str]) -> str:
    """Draw one matrix per row: counts, shaded by the share of the true class."""
    n_classes = max(len(row["confusion"]) for row in rows)
    names = [_short(name, 14) for name in class_names]
    if len(names) != n_classes:
        names = [str(i) for i in range(n_classes)]
    n_columns = min(len(rows), 4 if n_classes <= 3 else 2)
    size = (2.15 if n_columns > 2 else 2.9) if n_classes <= 3 else 1.4 + 0.36 * n_classes
    with _drawing():
        figure, grid = _grid(math.ceil(len(rows) / n_columns), n_columns, (size, size))
        for axes in grid.flat[len(rows) :]:
            axes.set_visible(False)
        for i, (axes, row) in enumerate(zip(grid.flat, rows, strict=False)):
            title = f"{_short(row['model'], 20)} {_short(row['variant'], 20)}"
            axes.set_title(title if len(title) < 18 else title.replace(" ", "\n"), fontsize=8.5)
            _matrix(axes, np.array(row["confusion"], dtype=float), names)
            if i % n_columns == 0:
                axes.set_ylabel("true")
            else:
                axes.set_yticklabels([])
            if i >= len(rows) - n_columns:
                axes.set_xlabel("predicted")
        return _svg(figure)


def _matrix(axes: Axes, counts: np.ndarray, names: list[str]) -> None:
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for (i, j), count in np.ndenumerate(counts):
        share = f"\n{percent(shares[i, j], 1)} %" if len(counts) <= 3 else ""
        colour = "white" if shares[i, j] > 0.55 else "#1d2430"
        axes.text(j, i, f"{count:.0f}{share}", ha="center", va="center", color=colour, fontsize=8)
    ticks = range(len(counts))
    axes.set_xticks(ticks, names, rotation=0 if len(counts) <= 3 else 60)
    axes.set_yticks(ticks, names)
    axes.tick_params(length=0, labelsize=8)
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)


def image_grid(pictures: Sequence[Picture], captions: Sequence[str]) -> str:
    """Draw pictures in rows of six, each over its caption."""
    n_columns = min(6, len(pictures))
    with _drawing():
        figure, grid = _grid(math.ceil(len(pictures) / n_columns), n_columns, (1.75, 2.15))
        for axes in grid.flat:
            axes.set_axis_off()
        for axes, picture, caption in zip(grid.flat, pictures, captions, strict=False):
            axes.imshow(picture.pixels, cmap="gray", vmin=0, vmax=255)
            lines = "\n".join(_short(line, 24) for line in caption.split("\n"))
            axes.text(0.5, -0.04, lines, transform=axes.transAxes, ha="center", va="top", size=7.5)
        return _svg(figure)
