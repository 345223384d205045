"""The page, the tables and the figures of the transfer studies."""

from __future__ import annotations

import base64
import csv
import io
import re
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NotRequired

from pydantic import Field, FiniteFloat, NonNegativeInt, TypeAdapter, ValidationError
from typing_extensions import TypedDict  # pydantic needs this one before Python 3.12

from qgraft.errors import RunError
from qgraft.reports.transfer_plots import accuracy_dots, decision_maps
from qgraft.training.checkpoint import atomic_write, load_tensors, read_json

if TYPE_CHECKING:
    from rich.table import Table

TITLES = {
    "spirals": "Points of the plane",
    "ants-bees": "Ants and bees",
    "cifar": "Pairs of CIFAR-10",
    "photonic-qc": "From a photonic network to a dense layer",
    "photonic-qq": "From photonic layers to more of them",
}
COLUMNS = ("Task", "Model", "Parameters", "Accuracy", "95 % interval", "Best epoch", "Published")
FIELDS: tuple[str, ...] = (
    "task",
    "model",
    "params",
    "accuracy_mean",
    "accuracy_std",
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
    facts: NotRequired[dict[str, Any]]


def read_transfer(run: Path) -> Result:
    """Return the checked content of `result.json`.

    Raises:
        RunError: it is missing, of another study, or damaged.
    """
    path = run / "result.json"
    try:
        result = TypeAdapter(Result).validate_python(read_json(path))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "the whole file"
        raise RunError(f"{path}: {place}: {first['msg']}; it is damaged: run again") from None
    if result["study"] not in TITLES:
        raise RunError(f"{path} is of the study {result['study']!r}, not of a transfer study")
    return result


def write_transfer_report(run: Path) -> Path:
    """Write `report.html`, `tables/` and `figures/` into the finished run directory `run`.

    Raises:
        RunError: the folder holds no result of a transfer study, or a damaged one.
    """
    result = read_transfer(run)
    maps = run / "heads" / "maps.safetensors"
    figures = {
        "accuracy": accuracy_dots(result["rows"]),
        "decisions": decision_maps(load_tensors(maps)) if maps.exists() else "",
    }
    figures = {name: svg for name, svg in figures.items() if svg}
    for name, svg in figures.items():
        atomic_write(run / "figures" / f"{name}.svg", svg)
    atomic_write(run / "tables" / "results.md", _markdown(result))
    atomic_write(run / "tables" / "results.csv", _csv(result))
    page = run / "report.html"
    atomic_write(page, _page(run, result, figures))
    return page


def transfer_table(result: Result) -> Table:
    """Return the result as a table for the terminal."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, caption="Per cent, mean ± standard deviation over seeds.")
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
        "-" if row["published"] is None else f"{100 * row['published']:.1f}",
    )


def sentences(result: Result) -> list[str]:
    """Say in words how ours stands to the published values."""
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
            f"{100 * theirs:.1f} %."
        )
    return said


def _markdown(result: Result) -> str:
    lines = [f"| {' | '.join(COLUMNS)} |", "|---|---|---:|---:|---:|---:|---:|"]
    lines += [f"| {' | '.join(table_cells(row))} |" for row in result["rows"]]
    return "\n".join(lines) + "\n"


def _csv(result: Result) -> str:
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, FIELDS, lineterminator="\n", extrasaction="ignore")
    writer.writeheader()
    writer.writerows(dict(row) for row in result["rows"])
    return buffer.getvalue()


def _page(run: Path, result: Result, figures: Mapping[str, str]) -> str:
    from jinja2 import Environment, StrictUndefined

    folder = resources.files("qgraft.reports")
    page = folder.joinpath("report.html.j2").read_text("utf-8")
    style = re.search(r"<style>.*?</style>", page, re.DOTALL)
    template = folder.joinpath("transfer.html.j2").read_text("utf-8")
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    config = read_json(run / "config.json") if (run / "config.json").exists() else {}
    return environment.from_string(
        template.replace("<style></style>", style[0] if style else "")
    ).render(
        title=TITLES[result["study"]],
        sentences=sentences(result),
        notes=result["notes"],
        columns=COLUMNS,
        rows=[table_cells(row) for row in result["rows"]],
        facts=list(_facts(result.get("facts", {}))),
        figures={
            name: f"data:image/svg+xml;base64,{base64.b64encode(svg.encode()).decode()}"
            for name, svg in figures.items()
        },
        command=config.get("command", ""),
        seed=config.get("seed"),
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
