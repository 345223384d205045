"""The page, the tables and the figures of the transfer studies."""

from __future__ import annotations

import csv
import io
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NotRequired

from pydantic import Field, FiniteFloat, NonNegativeInt
from typing_extensions import TypedDict  # pydantic needs this one before Python 3.12

from qgraft.errors import RunError
from qgraft.evaluation.audit.findings import Finding
from qgraft.reports.page import checked_result, embedded, render_page
from qgraft.reports.transfer_plots import accuracy_dots, decision_maps, is_quantum
from qgraft.training.checkpoint import atomic_write, load_tensors

if TYPE_CHECKING:
    from rich.table import Table

TITLES = {
    "spirals": "Points of the plane",
    "ants-bees": "Ants and bees",
    "cifar": "Pairs of CIFAR-10",
    "photonic-qc": "From a photonic network to a dense layer",
    "photonic-qq": "From photonic layers to more of them",
}
BEST = "Best epoch"
COLUMNS = ("Task", "Model", "Parameters", "Accuracy", "95 % interval", BEST, "Published")
FIELDS: tuple[str, ...] = (
    "task",
    "model",
    "params",
    "accuracy_mean",
    "accuracy_std",
    "accuracy_low",
    "accuracy_high",
    "n_seeds",
    "published",
)


class Row(TypedDict):
    """A model on a task; accuracies are fractions, intervals those of the mean over seeds."""

    task: str
    model: str
    params: NonNegativeInt
    accuracy_mean: FiniteFloat
    accuracy_std: FiniteFloat
    accuracy_low: FiniteFloat | None
    accuracy_high: FiniteFloat | None
    accuracy_min: FiniteFloat
    accuracy_max: FiniteFloat
    n_seeds: NonNegativeInt
    published: FiniteFloat | None
    best_epoch_mean: NotRequired[FiniteFloat | None]


class Result(TypedDict):
    """The content of `result.json` that the report uses."""

    study: str
    rows: Annotated[list[Row], Field(min_length=1)]
    notes: list[str]
    audit: NotRequired[list[Finding]]
    facts: NotRequired[dict[str, Any]]


def read_transfer(run: Path) -> Result:
    """Return the checked content of `result.json`.

    Raises:
        RunError: it is missing, of another study, or damaged.
    """
    result = checked_result(run, Result)
    if result["study"] not in TITLES:
        raise RunError(
            f"{run / 'result.json'} is of the study {result['study']!r}, not of a transfer study"
        )
    return result


def write_transfer_report(run: Path) -> Path:
    """Write `report.html`, `tables/` and `figures/` into the finished run directory `run`.

    Raises:
        RunError: the folder holds no result of a transfer study, or a damaged one.
    """
    result = read_transfer(run)
    figures = {"accuracy": accuracy_dots(result["rows"]), **_maps(run, result)}
    for name, svg in figures.items():
        atomic_write(run / "figures" / f"{name}.svg", svg)
    atomic_write(run / "tables" / "results.md", _markdown(result))
    atomic_write(run / "tables" / "results.csv", _csv(result))
    page = run / "report.html"
    atomic_write(page, _page(run, result, figures))
    return page


def _maps(run: Path, result: Result) -> dict[str, str]:
    """Return the maps of decisions by name, one figure per shape, models as in the table."""
    path = run / "heads" / "maps.safetensors"
    if not path.exists():
        return {}
    tensors, models = load_tensors(path), defaultdict(list)
    for row in result["rows"]:
        if f"{row['task']}/{row['model']}" in tensors:
            models[row["task"]].append(row["model"])
    return {
        f"decisions-{shape}": decision_maps(tensors, shape, titles)
        for shape, titles in models.items()
    }


def transfer_table(result: Result) -> Table:
    """Return the result as a table for the terminal."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, caption="Per cent, mean ± standard deviation over seeds.")
    for number, title in enumerate(_shown(COLUMNS, result)):
        table.add_column(title, justify="right" if number > 1 else "left")
    before = ""
    for row in result["rows"]:
        cells = _shown(table_cells(row), result)
        if before and cells[0] != before:
            table.add_section()
        table.add_row("" if cells[0] == before else cells[0], *cells[1:])
        before = cells[0]
    return table


def table_cells(row: Row) -> tuple[str, ...]:
    """Return the cells of a row, as `COLUMNS` names them."""
    interval, best = "-", row.get("best_epoch_mean")
    if row["accuracy_low"] is not None and row["accuracy_high"] is not None:
        interval = f"{100 * row['accuracy_low']:.1f} to {100 * row['accuracy_high']:.1f}"
    spread = f" ± {100 * row['accuracy_std']:.1f}" if row["n_seeds"] > 1 else ""
    return (
        row["task"],
        row["model"],
        f"{row['params']:,}",
        f"{100 * row['accuracy_mean']:.1f}{spread}",
        interval,
        "-" if best is None else f"{100 * best:.1f}",
        "-" if row["published"] is None else _published(row["published"]),
    )


def _published(accuracy: float) -> str:
    """Return a published accuracy in per cent with the digits it was given in."""
    return f"{round(100 * accuracy, 2):g}"


def _shown(cells: tuple[str, ...], result: Result) -> tuple[str, ...]:
    """Leave out the best epoch where no model was watched."""
    if any(row.get("best_epoch_mean") is not None for row in result["rows"]):
        return cells
    return tuple(cell for cell, title in zip(cells, COLUMNS, strict=True) if title != BEST)


def sentences(result: Result) -> list[str]:
    """Say in words how ours stands to the published values, and quantum to classical models."""
    said = []
    for row in result["rows"]:
        theirs = row["published"]
        if theirs is None:
            continue
        gap = 100 * (row["accuracy_mean"] - theirs)
        side = "above" if gap >= 0 else "below"
        said.append(
            f"{row['task']}, {row['model']}: {100 * row['accuracy_mean']:.1f} % over "
            f"{row['n_seeds']} seeds, {abs(gap):.1f} points {side} the published "
            f"{_published(theirs)} %."
        )
    tasks = dict.fromkeys(row["task"] for row in result["rows"])
    return said + [s for task in tasks if (s := _against_classical(result["rows"], task))]


def _against_classical(rows: list[Row], task: str) -> str | None:
    """Compare the best quantum with the best classical model of a task, if it has both."""
    here = [row for row in rows if row["task"] == task and row["n_seeds"] > 1]
    kinds = [[row for row in here if is_quantum(row["model"]) is kind] for kind in (True, False)]
    if not all(kinds):
        return None
    quantum, classical = (max(kind, key=lambda row: row["accuracy_mean"]) for kind in kinds)
    gap = 100 * (quantum["accuracy_mean"] - classical["accuracy_mean"])
    low, high = (100 * end for end in mean_difference(quantum, classical))
    shown = "no difference is shown" if low <= 0 <= high else "beyond chance over seeds"
    return (
        f"{task}: {quantum['model']} is {gap:+.1f} points ({low:+.1f} to {high:+.1f}) from "
        f"{classical['model']}, the best of {len(kinds[1])} classical models: {shown}."
    )


def mean_difference(first: Row, second: Row) -> tuple[float, float]:
    """Return Welch's 95 % interval of the difference of two means over seeds, as fractions."""
    from scipy import stats

    parts = [row["accuracy_std"] ** 2 / row["n_seeds"] for row in (first, second)]
    gap, error = first["accuracy_mean"] - second["accuracy_mean"], sum(parts) ** 0.5
    if not error:
        return gap, gap
    rest = sum(p**2 / (row["n_seeds"] - 1) for p, row in zip(parts, (first, second), strict=True))
    reach = float(stats.t.ppf(0.975, sum(parts) ** 2 / rest)) * error
    return gap - reach, gap + reach


def _markdown(result: Result) -> str:
    titles = _shown(COLUMNS, result)
    lines = [f"| {' | '.join(titles)} |", "|---|---|" + "---:|" * (len(titles) - 2)]
    lines += [f"| {' | '.join(_shown(table_cells(row), result))} |" for row in result["rows"]]
    return "\n".join(lines) + "\n"


def _csv(result: Result) -> str:
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, FIELDS, lineterminator="\n", extrasaction="ignore")
    writer.writeheader()
    writer.writerows(dict(row) for row in result["rows"])
    return buffer.getvalue()


def _page(run: Path, result: Result, figures: Mapping[str, str]) -> str:
    return render_page(
        "transfer.html.j2",
        run,
        title=TITLES[result["study"]],
        sentences=sentences(result),
        notes=result["notes"],
        audit=result.get("audit"),
        columns=_shown(COLUMNS, result),
        rows=[_shown(table_cells(row), result) for row in result["rows"]],
        facts=list(_facts(result.get("facts", {}))),
        figures=[(*_caption(name), embedded(svg)) for name, svg in figures.items()],
        has_best=BEST in _shown(COLUMNS, result),
    )


def _caption(name: str) -> tuple[str, str]:
    """Return the title and the caption of a figure."""
    if name == "accuracy":
        return "Accuracy of every model", (
            "Dots are means over the seeds, thick bands one standard deviation either way, thin "
            "lines the range, diamonds the published values. Orange models are quantum."
        )
    return f"Maps of decisions: {name.removeprefix('decisions-')}", (
        "What the head of median accuracy says all over the plane, blue for one class and orange "
        "for the other, paler where it is unsure, with the test points."
    )


def _facts(facts: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return facts as names and values, nested ones spelled out."""
    said = []
    for name, value in facts.items():
        items = value.items() if isinstance(value, dict) else [("", value)]
        for key, number in items:
            text = f"{number:.4f}" if isinstance(number, float) else str(number)
            said.append((f"{name}, {key}" if key else name, text))
    return said
