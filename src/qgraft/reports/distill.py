"""The report of the distillation study: one page, tables for other programs, figures."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NotRequired

from pydantic import Field, FiniteFloat, NonNegativeInt
from typing_extensions import TypedDict  # pydantic needs this one before Python 3.12

from qgraft.evaluation.audit.findings import Finding
from qgraft.reports.distill_plots import accuracy_dots, gain_intervals, setting, validation_lines
from qgraft.reports.page import checked_result, embedded, render_page
from qgraft.training.checkpoint import atomic_write, read_json

if TYPE_CHECKING:
    from rich.table import Table

COLUMNS = ("Student", "Teacher", "Parameters", "Accuracy", "Gain", "95 % interval", "Published")
NOBODY = "none"


class Row(TypedDict):
    """A student under a teacher; accuracies and gains are fractions."""

    dataset: str
    classes: str
    n_qubits: NonNegativeInt
    teacher: str
    student: str
    accuracy_mean: FiniteFloat
    accuracy_std: FiniteFloat
    gain_mean: FiniteFloat | None
    gain_low: FiniteFloat | None
    gain_high: FiniteFloat | None
    published: FiniteFloat | None
    half_width: FiniteFloat
    accuracies: Annotated[list[FiniteFloat], Field(min_length=1)]
    n_seeds: NonNegativeInt
    params: NonNegativeInt
    is_control: bool


class TeacherRow(TypedDict):
    """A teacher; accuracies are fractions of the test set."""

    dataset: str
    classes: str
    teacher: str
    accuracy: FiniteFloat | None
    best_accuracy: FiniteFloat | None
    params: NonNegativeInt | None
    published: FiniteFloat | None


class Gain(TypedDict):
    """The mean gain on a data set, in words."""

    sentence: str


class Result(TypedDict):
    """What `result.json` holds."""

    rows: Annotated[list[Row], Field(min_length=1)]
    teachers: list[TeacherRow]
    gains: list[Gain]
    notes: list[str]
    audit: NotRequired[list[Finding]]


def read_distill(run: Path) -> Result:
    """Read the result of a finished study.

    Raises:
        RunError: it is missing, of another study, or damaged.
    """
    return checked_result(run, Result)


def write_distill_report(run: Path) -> Path:
    """Write `report.html`, `tables/` and `figures/` into the finished run directory `run`.

    Raises:
        RunError: the folder holds no result, or it is damaged.
    """
    result = read_distill(run)
    rows, curves = result["rows"], run / "curves.json"
    figures = {
        "accuracy": accuracy_dots(rows),
        "gain": gain_intervals(rows),
        "validation": validation_lines(read_json(curves) if curves.exists() else {}),
    }
    figures = {name: svg for name, svg in figures.items() if svg}
    for name, svg in figures.items():
        atomic_write(run / "figures" / f"{name}.svg", svg)
    atomic_write(run / "tables" / "results.md", _markdown(result))
    atomic_write(run / "tables" / "results.csv", _csv(rows))
    page = run / "report.html"
    atomic_write(page, _page(run, result, figures))
    return page


def distill_table(result: Result) -> Table:
    """Return the table a terminal shows."""
    from rich import box
    from rich.table import Table

    table = Table(
        box=box.SIMPLE_HEAD,
        caption="Per cent; mean ± standard deviation over seeds; gains in points, paired by seed",
    )
    for number, title in enumerate(("Setting", *COLUMNS)):
        table.add_column(title, justify="right" if number > 2 else "left")
    before = ""
    for row in result["rows"]:
        name = setting(row)
        if before and name != before:
            table.add_section()
        table.add_row("" if name == before else name, *table_cells(row))
        before = name
    return table


def table_cells(row: Row) -> list[str]:
    """Return the cells of a row, under `COLUMNS`."""
    spread = f" ± {100 * row['accuracy_std']:.2f}" if row["n_seeds"] > 1 else ""
    low, high, gain, theirs = (row["gain_low"], row["gain_high"], row["gain_mean"],
                               row["published"])  # fmt: skip
    interval = "" if low is None or high is None else f"{100 * low:+.2f} to {100 * high:+.2f}"
    return [
        row["student"],
        row["teacher"],
        f"{row['params']:,}",
        f"{100 * row['accuracy_mean']:.2f}{spread}",
        "" if gain is None else f"{100 * gain:+.2f}",
        interval,
        "" if theirs is None else f"{100 * theirs:.2f} ± {100 * row['half_width']:.2f}",
    ]


def sentences(result: Result) -> list[str]:
    """Say in words what a teacher brings, and how near the published values are."""
    said = [gain["sentence"] for gain in result["gains"]]
    compared = [row for row in result["rows"] if row["published"] is not None]
    if compared:
        near = sum(
            abs(row["accuracy_mean"] - (row["published"] or 0.0)) <= row["half_width"]
            for row in compared
        )
        above = sum(
            row["accuracy_mean"] > (row["published"] or 0.0) + row["half_width"] for row in compared
        )
        said.append(
            f"Of {len(compared)} accuracies with a published value {near} lie within the 95 % "
            f"interval of one accuracy on so many images, {above} above it and "
            f"{len(compared) - near - above} below."
        )
    teachers = [t for t in result["teachers"] if t["accuracy"] is not None]
    if teachers:
        parts = [
            f"{t['teacher']} {100 * (t['accuracy'] or 0):.2f} % on {t['dataset']} {t['classes']}"
            + (f" (published {100 * t['published']:.2f})" if t["published"] is not None else "")
            for t in teachers
        ]
        said.append(f"Teachers: {', '.join(parts)}.")
    return said


def teacher_cells(row: TeacherRow) -> list[str]:
    """Return the cells of a teacher: where, who, size, last and best epoch, published."""

    def percent(value: float | None) -> str:
        return "" if value is None else f"{100 * value:.2f}"

    size = "" if row["params"] is None else f"{row['params']:,}"
    where = f"{row['dataset']} {row['classes']}"
    scores = (row["accuracy"], row["best_accuracy"], row["published"])
    return [where, row["teacher"], size, *map(percent, scores)]


def _markdown(result: Result) -> str:
    titles = ("Setting", *COLUMNS)
    lines = [f"| {' | '.join(titles)} |", "|---|---|---|" + "---:|" * (len(titles) - 3)]
    lines += [f"| {' | '.join([setting(r), *table_cells(r)])} |" for r in result["rows"]]
    if result["teachers"]:
        lines += ["", "| Data | Teacher | Parameters | Last epoch | Best epoch | Published |",
                  "|---|---|---:|---:|---:|---:|"]  # fmt: skip
        lines += [f"| {' | '.join(teacher_cells(t))} |" for t in result["teachers"]]
    return "\n".join(lines) + "\n"


def _csv(rows: list[Row]) -> str:
    buffer = io.StringIO()
    names = [name for name in Row.__annotations__ if name != "accuracies"]
    writer = csv.DictWriter(buffer, names, lineterminator="\n", extrasaction="ignore")
    writer.writeheader()
    for row in rows:
        # A cell that starts like a formula would be run by a spreadsheet.
        texts = {k: f"'{v}" for k, v in row.items() if isinstance(v, str) and v[:1] in "=+-@"}
        writer.writerow({**row, **texts})
    return buffer.getvalue()


def _page(run: Path, result: Result, figures: Mapping[str, str]) -> str:
    return render_page(
        "distill.html.j2",
        run,
        sentences=sentences(result),
        notes=result["notes"],
        columns=COLUMNS,
        rows=[(setting(row), row["is_control"], table_cells(row)) for row in result["rows"]],
        teachers=[teacher_cells(row) for row in result["teachers"]],
        figures={name: embedded(svg) for name, svg in figures.items()},
        audit=result.get("audit"),
    )
