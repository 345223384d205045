"""The page and the tables of runs side by side."""

from __future__ import annotations

import base64
import csv
import io
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qgraft.errors import RunError
from qgraft.evaluation.statistics import ALPHA
from qgraft.reports.compare_plots import (
    MOST_PANELS,
    MOST_ROWS,
    overlaid_curves,
    score_dots,
    shared_curves,
)
from qgraft.reports.comparison import Compared, Difference, RowScores, describe_metric
from qgraft.reports.evidence import interval, probability
from qgraft.reports.tables import MISSING, markdown_cell, mean_and_std, points, printable
from qgraft.training.checkpoint import atomic_write, write_json

if TYPE_CHECKING:
    from rich.console import RenderableType

DIFFERENCES = ("Row", "Run", "Difference, points", "95 % interval", "p", "p, all together", "Shown")


def write_comparison(compared: Compared, out: Path) -> Path:
    """Write `report.html`, `comparison.json`, `tables/` and `figures/` into the folder `out`.

    Raises:
        RunError: the folder is a run directory, whose report would be lost.
    """
    if (out / "config.json").exists() or (out / "result.json").exists():
        raise RunError(f"{out} holds a run; choose another folder for the comparison")
    figures = {"scores": score_dots(compared), "curves": overlaid_curves(compared)}
    figures = {name: svg for name, svg in figures.items() if svg}
    for name, svg in figures.items():
        atomic_write(out / "figures" / f"{name}.svg", svg)
    titles, rows = score_table(compared)
    differences = difference_table(compared)
    atomic_write(out / "tables" / "scores.md", _markdown(titles, rows))
    atomic_write(out / "tables" / "scores.csv", _csv(compared))
    atomic_write(out / "tables" / "differences.md", _markdown(DIFFERENCES, differences))
    write_json(out / "comparison.json", as_json(compared))
    page = out / "report.html"
    atomic_write(page, _page(compared, figures))
    return page


def score_table(compared: Compared) -> tuple[list[str], list[list[str]]]:
    """Return titles and cells of the shared rows, a column for each run."""
    titles = ["Row", *(printable(run.name) for run in compared.runs)]
    return titles, [
        [printable(name), *(_score(run.rows[name]) for run in compared.runs)]
        for name in compared.rows
    ]


def _score(scores: RowScores) -> str:
    return mean_and_std(scores.mean, scores.std, scores.n)


def difference_table(compared: Compared) -> list[list[str]]:
    """Return the cells of every difference, as `DIFFERENCES` names them."""
    return [
        [
            printable(d.row),
            printable(d.run),
            points(d.difference),
            interval(d.low, d.high),
            MISSING if d.p_value is None else probability(d.p_value),
            MISSING if d.p_adjusted is None else probability(d.p_adjusted),
            outcome(d),
        ]
        for d in compared.differences
    ]


def outcome(found: Difference) -> str:
    """Return what a difference says, in a word or two."""
    if found.p_adjusted is None:
        return "not tested"
    side = "better" if found.difference > 0 else "worse"
    if found.p_adjusted < ALPHA:
        return side
    apart = found.low is not None and found.high is not None and (found.low > 0 or found.high < 0)
    return f"hint: {side}" if apart else "none shown"


def summary(compared: Compared) -> str:
    """Return in one sentence per run how it stands to the first."""
    first = compared.runs[0].name
    said = []
    for run in compared.runs[1:]:
        own = [d for d in compared.differences if d.run == run.name]
        tested = [d for d in own if d.p_adjusted is not None]
        if not tested:
            said.append(f"Nothing is tested between {run.name} and {first}.")
            continue
        sure = [d for d in tested if d.p_adjusted is not None and d.p_adjusted < ALPHA]
        better = sum(d.difference > 0 for d in sure)
        rest = len(tested) - len(sure)
        said.append(
            f"Of {len(tested)} rows tested, {run.name} is better than {first} on {better}, worse "
            f"on {len(sure) - better}, and on {rest} no difference is shown."
        )
    return " ".join(said)


def notes(compared: Compared) -> list[str]:
    """Return what a reader should know before quoting a difference."""
    said = list(compared.pairing)
    alone = sum(d.p_value is None for d in compared.differences)
    if alone and any(d.paired for d in compared.differences):
        said.append(f"{alone} of {len(compared.differences)} differences are not tested.")
    protocols = {run.settings.get("protocol") for run in compared.runs}
    if len(protocols) > 1:
        said.append("The runs follow different protocols: their scores mean different things.")
    return said


def as_json(compared: Compared) -> dict[str, Any]:
    """Return the comparison as plain data; scores and differences are fractions."""
    return {
        "study": compared.runs[0].study,
        "metric": compared.runs[0].metric,
        "runs": [run.name for run in compared.runs],
        "notes": notes(compared),
        "settings": [list(line) for line in compared.differing],
        "rows": [
            {
                "row": name,
                **{
                    run.name: {
                        "mean": run.rows[name].mean, "std": run.rows[name].std,
                        "n": run.rows[name].n,
                    }
                    for run in compared.runs
                },
            }
            for name in compared.rows
        ],
        "differences": [asdict(found) for found in compared.differences],
        "sentences": list(compared.sentences),
    }  # fmt: skip


def terminal_comparison(compared: Compared) -> RenderableType:
    """Return scores and differences as tables for a terminal."""
    from rich import box
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    def table(titles: Sequence[str], rows: Sequence[Sequence[str]], names: int) -> Table:
        drawn = Table(box=box.SIMPLE_HEAD, padding=(0, 1), header_style="dim")
        for number, title in enumerate(titles):
            right = number >= names
            drawn.add_column(Text(title), justify="right" if right else "left", overflow="fold")
        for cells in rows:
            drawn.add_row(*map(Text, cells))
        return drawn

    titles, rows = score_table(compared)
    titles[0] = f"{describe_metric(compared)}, %"
    said = [Text(printable(summary(compared)))]
    said += [Text(f"! {printable(note)}", "yellow") for note in notes(compared)]
    return Group(table(titles, rows, 1), table(DIFFERENCES, difference_table(compared), 2), *said)


def _markdown(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    rule = ["---", *("---:" for _ in titles[1:])]
    body = [[markdown_cell(cell) for cell in cells] for cells in rows]
    lines = [[markdown_cell(title) for title in titles], rule, *body]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _csv(compared: Compared) -> str:
    from qgraft.reports.tables import csv_cell

    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(("row", "run", "mean", "std", "n"))
    for name in compared.rows:
        for run in compared.runs:
            scores = run.rows[name]
            words = (csv_cell(name), csv_cell(run.name))
            writer.writerow((*words, scores.mean, scores.std, scores.n))
    return buffer.getvalue()


def _page(compared: Compared, figures: dict[str, str]) -> str:
    from jinja2 import Environment, StrictUndefined

    folder = resources.files("qgraft.reports")
    style = re.search(
        r"<style>.*?</style>", folder.joinpath("report.html.j2").read_text("utf-8"), re.DOTALL
    )
    template = folder.joinpath("compare.html.j2").read_text("utf-8")
    visible: Callable[[Any], Any] = lambda v: printable(v) if type(v) is str else v  # noqa: E731
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, finalize=visible, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    titles, rows = score_table(compared)
    page = environment.from_string(template.replace("<style></style>", style[0] if style else ""))
    return page.render(
        study=compared.runs[0].study,
        runs=[run.name for run in compared.runs],
        metric=describe_metric(compared),
        summary=summary(compared),
        notes=notes(compared),
        titles=titles,
        rows=rows,
        difference_titles=DIFFERENCES,
        differences=difference_table(compared),
        settings=compared.differing,
        commands=[(run.name, str(run.settings.get("command", ""))) for run in compared.runs],
        figures={
            name: f"data:image/svg+xml;base64,{base64.b64encode(svg.encode()).decode()}"
            for name, svg in figures.items()
        },
        left_out={
            "scores": max(0, len(compared.rows) - MOST_ROWS),
            "curves": max(0, len(shared_curves(compared)) - MOST_PANELS),
        },
    )
