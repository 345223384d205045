"""Does the quantum part help? The comparisons of a run as sentence, table and figures."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from qgraft.reports.plots import BLUE, GREY, ORANGE, _drawing, _grid, _short, _svg
from qgraft.reports.tables import MISSING, Column, mean_and_std, percent, points, printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from qgraft.reports.rundir import Comparison, Evidence

ALPHA = 0.05
CSV_FIELDS = (
    "model", "variant", "control", "hybrid_params", "control_params", "hybrid_f1", "control_f1",
    "difference", "std", "low", "high", "seeds_low", "seeds_high", "p_value", "p_adjusted",
)  # fmt: skip


def interval(low: float | None, high: float | None, digits: int = 2) -> str:
    """Return an interval of fractions in points: `-0.31 to +1.10`, with true minus signs."""
    if low is None or high is None:
        return MISSING
    return f"{points(low, digits)} to {points(high, digits)}"


def probability(value: float) -> str:
    """Return a p value with three decimals, `< 0.001` below that."""
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def outcome(row: Comparison) -> str:
    """Return what a comparison says, in two or three words."""
    better = "quantum" if row["difference"] > 0 else "control"
    if row["p_adjusted"] < ALPHA:
        return f"{better} better"
    return f"hint: {better}" if row["low"] > 0 or row["high"] < 0 else "none shown"


def _label(row: Mapping[str, Any]) -> str:
    """Return what a row is about, without the article it has in a sentence."""
    return printable(row["says"].removeprefix("the ").removeprefix("a "))


def _column(title: str, text: Callable[[Any], str]) -> Column:
    return Column(title, title.lower(), text, text)


COLUMNS = (
    _column("Model", lambda row: printable(row["model"])),
    _column("Variant", lambda row: printable(row["variant"])),
    _column("Compared with", _label),
    _column("Its parameters", lambda row: f"{row['control_params']:,}"),
    _column("Its F1 %", lambda row: percent(row["control_f1"])),
    _column("Quantum F1 %", lambda row: percent(row["hybrid_f1"])),
    _column(
        "Difference, points",
        lambda row: f"{points(row['difference'])} ± {percent(row['std'])}",
    ),
    _column("95 % interval", lambda row: interval(row["low"], row["high"])),
    _column("Over seeds alone", lambda row: interval(row["seeds_low"], row["seeds_high"])),
    _column("p", lambda row: probability(row["p_value"])),
    _column("p, all together", lambda row: probability(row["p_adjusted"])),
    _column("Outcome", outcome),
)


def section(evidence: Evidence) -> dict[str, Any]:
    """Return what the section of the page shows: sentences, and the table in groups."""
    shown = COLUMNS[2:5] + COLUMNS[6:]
    groups: dict[tuple[str, str], list[list[str]]] = {}
    for row in evidence["comparisons"]:
        cells = [column.text(row) for column in shown]  # pyright: ignore[reportArgumentType]
        groups.setdefault((row["model"], row["variant"]), []).append(cells)
    heads = {(r["model"], r["variant"]): r for r in evidence["rows"] if r["head"] == "dressed"}
    return {
        "method": evidence["method"],
        "summary": evidence["sentences"][0],
        "sentences": evidence["sentences"][1:],
        "titles": [column.title for column in shown],
        "groups": [(_group_title(heads[place]), cells) for place, cells in groups.items()],
    }


def _group_title(row: Mapping[str, Any]) -> str:
    score = mean_and_std(row["f1_mean"], row["f1_std"], 2)
    n_seeds, n_folds = len(row["scores"]), len(row["scores"][0])
    seeds = f"{n_seeds} seed{'s' if n_seeds > 1 else ''}"
    name = f"{printable(row['model'])} {printable(row['variant'])}"
    size = f"{row['head_params']:,} parameters"
    return f"{name}, quantum head: {size}, F1 {score} % ({seeds}, {n_folds} folds)"


def _panels(rows: Sequence[Any], x_label: str) -> tuple[Any, list[tuple[Any, list[Any]]]]:
    """Return a figure and, for every hybrid, its axes and its rows."""
    groups: dict[tuple[str, str], list[Any]] = {}
    for row in rows:
        groups.setdefault((row["model"], row["variant"]), []).append(row)
    n_columns = min(3, len(groups))
    n_lines = max(map(len, groups.values()))
    width = 10.0 / n_columns if n_columns > 1 else 7.5
    figure, grid = _grid(
        -(-len(groups) // n_columns), n_columns, (width, 0.9 + 0.24 * n_lines), sharex=True
    )
    for axes in grid.flat[len(groups) :]:
        axes.set_visible(False)
    panels = []
    for number, (axes, (place, members)) in enumerate(zip(grid.flat, groups.items(), strict=False)):
        axes.set_title(_short(" ".join(place), 30))
        axes.grid(visible=False, axis="y")
        axes.tick_params(axis="y", length=0, labelleft=number % n_columns == 0)
        if number + n_columns >= len(groups):
            axes.tick_params(axis="x", labelbottom=True)
            axes.set_xlabel(x_label)
        axes.set_ylim(-len(members) + 0.4, 0.6)
        panels.append((axes, members))
    return figure, panels


def _name_lines(axes: Axes, names: Sequence[str]) -> None:
    axes.set_yticks([-i for i in range(len(names))], [_short(name, 44) for name in names])


def forest(comparisons: Sequence[Comparison]) -> str:
    """Draw every paired difference with its interval: right of zero the quantum head is better."""
    with _drawing():
        figure, panels = _panels(comparisons, "quantum head minus control, points")
        for axes, rows in panels:
            axes.axvline(0, color="#9aa1ab", linewidth=1)
            for line, row in enumerate(rows):
                sure = row["p_adjusted"] < ALPHA
                colour = GREY if not sure else BLUE if row["difference"] > 0 else ORANGE
                low, middle, high = (100 * row[key] for key in ("low", "difference", "high"))
                axes.plot([low, high], [-line, -line], color=colour, solid_capstyle="butt")
                axes.plot(middle, -line, "o" if sure else "s", color=colour, markersize=5)
            _name_lines(axes, [_label(row) for row in rows])
        return _svg(figure)


def scores(rows: Sequence[Mapping[str, Any]]) -> str:
    """Draw the F1 of every single head, one dot per seed and fold, and the mean as a bar."""
    with _drawing():
        figure, panels = _panels(rows, "F1, %")
        for axes, members in panels:
            for line, row in enumerate(members):
                colour = BLUE if row["head"] == "dressed" else GREY
                n_seeds = len(row["scores"])
                for seed, folds in enumerate(row["scores"]):
                    shift = 0.28 * (2 * seed / (n_seeds - 1) - 1) if n_seeds > 1 else 0.0
                    places = [-line + shift] * len(folds)
                    values = [100 * value for value in folds]
                    axes.plot(values, places, "o", color=colour, markersize=2.6, alpha=0.45)
                mean = 100 * row["f1_mean"]
                axes.plot([mean, mean], [-line - 0.4, -line + 0.4], color=colour, linewidth=2)
            _name_lines(axes, [_label(row) for row in members])
        return _svg(figure)
