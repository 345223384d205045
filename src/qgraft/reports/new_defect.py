"""The page, the tables and the figures of the new-defect study."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NotRequired

from pydantic import Field, FiniteFloat, NonNegativeInt
from typing_extensions import TypedDict  # pydantic needs this one before Python 3.12

from qgraft.evaluation.audit.findings import Finding
from qgraft.reports.curves import few_examples, head_colours, seconds_bars
from qgraft.reports.page import checked_result, embedded, render_page
from qgraft.training.checkpoint import atomic_write, read_json

if TYPE_CHECKING:
    from rich.table import Table

COLUMNS = (
    "Left out", "Head", "Examples", "New type found", "False alarms there", "Balanced there",
    "F1 on the old", "F1 lost", "Seconds",
)  # fmt: skip


class Row(TypedDict):
    """One left-out type, head and number of examples; scores and losses are fractions."""

    left_out: str
    head: str
    shots: NonNegativeInt
    n_seeds: NonNegativeInt
    head_params: NonNegativeInt
    recall_new_mean: FiniteFloat
    recall_new_std: FiniteFloat
    false_alarms_new_mean: FiniteFloat
    false_alarms_new_std: FiniteFloat
    balanced_new_mean: FiniteFloat
    balanced_new_std: FiniteFloat
    f1_old_mean: FiniteFloat
    f1_old_std: FiniteFloat
    f1_old_loss_mean: FiniteFloat
    seconds_mean: FiniteFloat


class Comparison(TypedDict):
    """The first head minus another one, over the same seeds."""

    left_out: str
    head: str
    other: str
    shots: NonNegativeInt
    balanced_new_difference: FiniteFloat
    balanced_new_interval: list[FiniteFloat] | None
    f1_old_difference: FiniteFloat
    f1_old_interval: list[FiniteFloat] | None


class Result(TypedDict):
    """The content of `result.json` that the report uses."""

    rows: Annotated[list[Row], Field(min_length=1)]
    comparisons: list[Comparison]
    notes: list[str]
    audit: NotRequired[list[Finding]]


def write_new_defect_report(run: Path) -> Path:
    """Write `report.html`, `tables/` and `figures/` into the finished run directory `run`.

    Raises:
        RunError: the folder holds no result of this study, or a damaged one.
    """
    result = read_result(run)
    rows = result["rows"]
    figures = {
        "few-examples": few_examples(rows),
        "seconds": seconds_bars(_seconds(run, rows), head_colours(rows)),
    }
    for name, svg in figures.items():
        atomic_write(run / "figures" / f"{name}.svg", svg)
    atomic_write(run / "tables" / "results.md", _markdown(rows))
    atomic_write(run / "tables" / "results.csv", _csv(rows))
    page = run / "report.html"
    atomic_write(page, _page(run, result, figures))
    return page


def read_result(run: Path) -> Result:
    """Return the checked content of `result.json`.

    Raises:
        RunError: it is missing, of another study, or damaged.
    """
    return checked_result(run, Result)


def new_defect_table(result: Result) -> Table:
    """Return the result as a table for the terminal."""
    from rich.table import Table

    table = Table(caption="Per cent, mean ± standard deviation over seeds; lost: paired by seed.")
    for number, title in enumerate(COLUMNS):
        table.add_column(title, justify="right" if number > 1 else "left")
    before = ""
    for row in result["rows"]:
        cells = table_cells(row)
        if before and cells[0] != before:
            table.add_section()
        table.add_row("" if cells[0] == before else cells[0], *cells[1:])
        before = cells[0]
    return table


def table_cells(row: Row) -> list[str]:
    """Return the cells of a row, under `COLUMNS`."""

    def share(name: str) -> str:
        values: Mapping[str, Any] = row
        mean = 100 * values[f"{name}_mean"]
        return (
            f"{mean:.1f} ± {100 * values[f'{name}_std']:.1f}"
            if row["n_seeds"] > 1
            else f"{mean:.1f}"
        )

    return [
        row["left_out"],
        row["head"],
        str(row["shots"]),
        share("recall_new"),
        share("false_alarms_new"),
        share("balanced_new"),
        share("f1_old"),
        f"{100 * row['f1_old_loss_mean']:+.1f}" if row["shots"] else "",
        f"{row['seconds_mean']:.2f}",
    ]


def sentences(result: Result) -> list[str]:
    """Say in plain words what most examples bring, head by head, and how the heads differ."""
    rows = result["rows"]
    where = rows[-1]["left_out"]  # all types, where there are several
    most = max(row["shots"] for row in rows)
    found = {(r["head"], r["shots"]): r for r in rows if r["left_out"] == where}
    subject = "a defect type it has never seen" if where == "all types" else f"{where!r}"
    said = []
    for head in dict.fromkeys(row["head"] for row in rows):
        none, all_ = found[head, 0], found[head, most]
        loss = 100 * all_["f1_old_loss_mean"]
        verb = "loses" if loss >= 0 else "gains"
        said.append(
            f"With {most} examples the {head} head finds {_change(none, all_, 'recall_new')} of "
            f"{subject}, calls {_change(none, all_, 'false_alarms_new')} of its good crops "
            f"anomalous, and {verb} {abs(loss):.1f} points of F1 on the old types, after "
            f"{all_['seconds_mean']:.2g} s."
        )
    for pair in result["comparisons"]:
        if pair["left_out"] == where and pair["shots"] == most:
            said.append(_difference(pair))
    return said


def _change(none: Mapping[str, Any], all_: Mapping[str, Any], name: str) -> str:
    return f"{100 * all_[f'{name}_mean']:.1f} % (without any {100 * none[f'{name}_mean']:.1f} %)"


def _difference(pair: Comparison) -> str:
    gap, interval = 100 * pair["balanced_new_difference"], pair["balanced_new_interval"]
    side = "above" if gap >= 0 else "below"
    text = (
        f"In balanced accuracy on the new type the {pair['head']} head is {abs(gap):.1f} points "
        f"{side} the {pair['other']} head"
    )
    if interval is None:
        return f"{text}; one seed gives no interval."
    low, high = (100 * value for value in interval)
    better = pair["head"] if gap >= 0 else pair["other"]
    verdict = "no evidence of a difference" if low <= 0 <= high else f"the {better} head is better"
    return f"{text}, interval over seeds {low:.1f} to {high:.1f}: {verdict}."


def _seconds(run: Path, rows: list[Row]) -> dict[str, float]:
    """Return seconds of each way to learn the new type with most examples, fastest first."""
    where, most = rows[-1]["left_out"], max(row["shots"] for row in rows)
    ways = {
        f"{row['head']} head, {row['head_params']:,} parameters": row["seconds_mean"]
        for row in rows
        if row["left_out"] == where and row["shots"] == most
    }
    timings = run / "timings.json"
    stored = read_json(timings) if timings.exists() else {}
    networks = [value for name, value in stored.items() if name.endswith("/network")]
    if networks:
        ways["the whole network"] = sum(networks) / len(networks)
    positive = {name: value for name, value in ways.items() if value > 0}
    return dict(sorted(positive.items(), key=lambda item: item[1]))


def _markdown(rows: list[Row]) -> str:
    lines = [f"| {' | '.join(COLUMNS)} |", "|---|---|" + "---:|" * (len(COLUMNS) - 2)]
    lines += [f"| {' | '.join(table_cells(row))} |".replace("\n", " ") for row in rows]
    return "\n".join(lines) + "\n"


def _csv(rows: list[Row]) -> str:
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    for row in rows:
        # A cell that starts like a formula would be run by a spreadsheet.
        name = row["left_out"]
        writer.writerow({**row, "left_out": f"'{name}" if name[:1] in "=+-@" else name})
    return buffer.getvalue()


def _page(run: Path, result: Result, figures: Mapping[str, str]) -> str:
    return render_page(
        "new_defect.html.j2",
        run,
        sentences=sentences(result),
        notes=result["notes"],
        audit=result.get("audit"),
        columns=COLUMNS,
        rows=[(row["left_out"], table_cells(row)) for row in result["rows"]],
        figures={name: embedded(svg) for name, svg in figures.items()},
    )
