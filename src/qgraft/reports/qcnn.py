"""The report of the QCNN transfer study: one page, tables for other programs, figures."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, NotRequired

from pydantic import Field, FiniteFloat, NonNegativeInt
from typing_extensions import TypedDict  # pydantic needs this one before Python 3.12

from qgraft.evaluation.audit.findings import Finding
from qgraft.reports.page import checked_result, embedded, read_settings, render_page
from qgraft.reports.qcnn_plots import accuracy_bars, accuracy_by_parameters, cost_lines
from qgraft.training.checkpoint import atomic_write, read_json

if TYPE_CHECKING:
    from rich.table import Table

SAME = 0.0015  # published accuracies closer than they can be read off their figure
REFERENCE = "su4 generalised"


class _Scored(TypedDict):
    pair: str
    accuracy_mean: FiniteFloat
    accuracy_std: FiniteFloat
    accuracy_best: FiniteFloat
    n_seeds: NonNegativeInt
    params: NonNegativeInt
    published: FiniteFloat | None


class ModelRow(_Scored):
    """A quantum convolutional network on a pair; accuracies are fractions."""

    ansatz: str
    pooling: str
    embedding: str


class ControlRow(_Scored):
    """A classical or tuned head on a pair."""

    model: str
    learning_rate: FiniteFloat | None


class Comparison(TypedDict):
    """A paired difference of accuracies with its interval over seeds."""

    pair: str
    first: str
    second: str
    difference: FiniteFloat
    low: FiniteFloat | None
    high: FiniteFloat | None
    p_adjusted: FiniteFloat


class Result(TypedDict):
    """What `result.json` holds."""

    rows: Annotated[list[ModelRow], Field(min_length=1)]
    controls: list[ControlRow]
    comparisons: list[Comparison]
    notes: list[str]
    audit: NotRequired[list[Finding]]
    data: dict[str, Any]


class Line(NamedTuple):
    """One model in a table: name, parameters, and per pair ours and the published accuracy."""

    name: str
    detail: str
    params: int
    cells: tuple[tuple[str, str], ...]
    is_control: bool


def read_qcnn(run: Path) -> Result:
    """Read the result of a finished study.

    Raises:
        RunError: it is missing or damaged.
    """
    return checked_result(run, Result)


def write_qcnn_report(run: Path) -> Path:
    """Write `report.html`, `tables/` and `figures/` into the finished run directory `run`.

    Raises:
        RunError: the folder holds no result, or it is damaged.
    """
    result = read_qcnn(run)
    curves = run / "curves.json"
    figures = {
        "accuracy": accuracy_bars(result["rows"]),
        "parameters": accuracy_by_parameters(result["rows"], result["controls"]),
        "cost": cost_lines(read_json(curves) if curves.exists() else {}),
    }
    for name, svg in figures.items():
        atomic_write(run / "figures" / f"{name}.svg", svg)
    atomic_write(run / "tables" / "results.md", _markdown(result))
    atomic_write(run / "tables" / "results.csv", _csv(result))
    report = run / "report.html"
    atomic_write(report, _page(run, result, figures))
    return report


def qcnn_table(result: Result) -> Table:
    """Return the table a terminal shows."""
    from rich import box
    from rich.table import Table

    table = Table(
        box=box.SIMPLE_HEAD,
        caption="Accuracy in per cent, mean ± standard deviation over seeds; published in brackets",
    )
    for title in ("model", "", "parameters"):
        table.add_column(title, justify="right" if title == "parameters" else "left")
    for pair in pairs_of(result):
        table.add_column(pair, justify="right")
    was_control = False
    for line in table_lines(result):
        if line.is_control and not was_control:
            table.add_section()
        was_control = line.is_control
        cells = (f"{ours} ({theirs})" if theirs else ours for ours, theirs in line.cells)
        table.add_row(line.name, line.detail, f"{line.params:,}", *cells)
    return table


def pairs_of(result: Result) -> list[str]:
    """Return the pairs of classes in their order."""
    return list(dict.fromkeys(row["pair"] for row in result["rows"]))


def table_lines(result: Result) -> list[Line]:
    """Return one line per model, pairs side by side."""
    pairs = pairs_of(result)
    models: dict[tuple[str, str, bool], dict[str, _Scored]] = {}
    for row in result["rows"]:
        models.setdefault((row["ansatz"], row["pooling"], False), {})[row["pair"]] = row
    for row in result["controls"]:
        models.setdefault((row["model"], "", True), {})[row["pair"]] = row
    lines = []
    for (name, detail, is_control), rows in models.items():
        cells = tuple(_cells(rows.get(pair)) for pair in pairs)
        params = next(iter(rows.values()))["params"]
        lines.append(Line(name, detail, params, cells, is_control))
    return lines


def _cells(row: _Scored | None) -> tuple[str, str]:
    if row is None:
        return "-", ""
    spread = f" ± {100 * row['accuracy_std']:.2f}" if row["n_seeds"] > 1 else ""
    theirs = "" if row["published"] is None else f"{100 * row['published']:.1f}"
    return f"{100 * row['accuracy_mean']:.2f}{spread}", theirs


def sentences(result: Result) -> list[str]:
    """Say in words what the numbers show."""
    said = [_reference_sentence(result), _pooling_sentence(result), *_control_sentences(result)]
    return [sentence for sentence in said if sentence]


def _reference_sentence(result: Result) -> str:
    rows = [r for r in result["rows"] if f"{r['ansatz']} {r['pooling']}" == REFERENCE]
    parts = []
    for row in rows:
        theirs = row["published"]
        beside = "" if theirs is None else f" (published {100 * theirs:.1f} %)"
        parts.append(f"{100 * row['accuracy_mean']:.1f} %{beside} on {row['pair']}")
    if not parts:
        return ""
    return f"SU4 blocks with generalised pooling, {rows[0]['params']} angles: {', '.join(parts)}."


def _pooling_sentence(result: Result) -> str:
    """Compare the two poolings, and say how often the published order returns."""
    pooled = [
        c
        for c in result["comparisons"]
        if c["first"].endswith(" generalised") and c["second"].endswith(" zx")
    ]
    if not pooled:
        return ""
    better = sum(c["difference"] > 0 for c in pooled)
    sure = [c for c in pooled if c["p_adjusted"] < 0.05]
    ahead = sum(c["difference"] > 0 for c in sure)
    text = (
        f"Generalised pooling has the higher mean in {better} of {len(pooled)} comparisons with ZX "
        f"pooling. After adjusting for all comparisons {ahead} of these differences remain, and "
        f"{len(sure) - ahead} of the opposite ones."
    )
    known = {(r["ansatz"], r["pooling"], r["pair"]): r["published"] for r in result["rows"]}
    same = total = 0
    for c in pooled:
        ansatz = c["first"].removesuffix(" generalised")
        general = known.get((ansatz, "generalised", c["pair"]))
        zx = known.get((ansatz, "zx", c["pair"]))
        if general is not None and zx is not None and abs(general - zx) > SAME:
            total += 1
            same += (general > zx) == (c["difference"] > 0)
    return f"{text} The published order of the two returns in {same} of {total}." if total else text


def _control_sentences(result: Result) -> list[str]:
    """Set the reference network beside the best control of every pair."""
    said = []
    controls = {(r["model"], r["pair"]): r for r in result["controls"]}
    for pair in pairs_of(result):
        against = [
            c
            for c in result["comparisons"]
            if c["pair"] == pair and c["first"] == REFERENCE
            and (c["second"], pair) in controls and REFERENCE not in c["second"]
        ]  # fmt: skip
        if not against:
            continue
        best = min(against, key=lambda c: c["difference"])
        gap, params = 100 * best["difference"], controls[best["second"], pair]["params"]
        side = "above" if gap >= 0 else "below"
        interval = ""
        if best["low"] is not None and best["high"] is not None:
            interval = f", interval over seeds {100 * best['low']:.1f} to {100 * best['high']:.1f}"
        said.append(
            f"On {pair} that is {abs(gap):.1f} points {side} the best control, {best['second']} "
            f"with {params:,} parameters{interval}."
        )
    return said


def _markdown(result: Result) -> str:
    pairs = pairs_of(result)
    titles = ["model", "parameters"]
    for pair in pairs:
        titles += [f"{pair}, ours", "published"]
    lines = [f"| {' | '.join(titles)} |", "|---|---:|" + "---:|" * (2 * len(pairs))]
    for line in table_lines(result):
        cells = [part for cell in line.cells for part in cell]
        name = f"{line.name} {line.detail}".strip()
        lines.append(f"| {' | '.join([name, f'{line.params:,}', *cells])} |")
    return "\n".join(lines) + "\n"


def _csv(result: Result) -> str:
    buffer = io.StringIO()
    names = ["model", "pooling", "pair", "params", "accuracy_mean", "accuracy_std", "n_seeds",
             "published"]  # fmt: skip
    writer = csv.DictWriter(buffer, names, lineterminator="\n", extrasaction="ignore")
    writer.writeheader()
    for row in result["rows"]:
        writer.writerow({**row, "model": row["ansatz"]})
    for row in result["controls"]:
        writer.writerow({**row, "pooling": ""})
    return buffer.getvalue()


def _page(run: Path, result: Result, figures: Mapping[str, str]) -> str:
    return render_page(
        "qcnn.html.j2",
        run,
        sentences=sentences(result),
        notes=result["notes"],
        audit=result.get("audit"),
        pairs=pairs_of(result),
        lines=table_lines(result),
        comparisons=[_comparison_cells(c) for c in result["comparisons"]],
        facts=_facts(result, read_settings(run)),
        figures={name: embedded(svg) for name, svg in figures.items() if svg},
    )


def _comparison_cells(row: Comparison) -> tuple[str, ...]:
    interval = "-"
    if row["low"] is not None and row["high"] is not None:
        interval = f"{100 * row['low']:.2f} to {100 * row['high']:.2f}"
    gap = f"{100 * row['difference']:+.2f}"
    return (
        f"{row['first']} against {row['second']}",
        row["pair"],
        gap,
        interval,
        _p(row["p_adjusted"]),
    )


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def _facts(result: Result, config: Mapping[str, Any]) -> Sequence[tuple[str, str]]:
    data = result["data"]
    facts = [
        (f"Pair {name}", f"{n['training']:,} training, {n['test']:,} test images")
        for name, n in data.get("pairs", {}).items()
    ]
    facts.append(("Inputs of the heads", f"{data.get('n_features', '?')} ({config.get('inputs')})"))
    facts.append(("Images of the source task", f"{data.get('n_source', 0):,}"))
    recipe = (
        f"{config.get('steps')} steps of {config.get('batch_size')}, {config.get('optimiser')} "
        f"at {config.get('learning_rate')}"
    )
    return [*facts, ("Training of a head", recipe)]
