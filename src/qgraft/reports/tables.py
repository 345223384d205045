"""The result table in five dresses: Markdown, LaTeX, terminal and HTML in per cent, CSV raw.

One list of columns feeds all of them. `results.csv` and `result.json` hold fractions at full
precision for programs; the tables that people read print per cent with two decimals.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import RenderableType

    from qgraft.reports.rundir import Result, Row

MISSING, MINUS = "\N{EN DASH}", "\N{MINUS SIGN}"
# The wide forms count too: spreadsheets in East Asian locales read them as operators.
# The replacement character stands where a tab or a line break stood.
FORMULA_STARTS = tuple("=+-@\uff1d\uff0b\uff0d\uff20\N{REPLACEMENT CHARACTER}")

CSV_FIELDS = (
    "model", "variant", "replaced", "n_features", "params", "trainable", "removed", "head_params",
    "reduction_whole", "reduction_block", "f1_mean", "f1_std", "f1_best", "accuracy_mean",
    "accuracy_std", "precision_mean", "recall_mean", "auc_mean", "n_folds", "scored_on",
    "fold_f1_mean", "fold_f1_std", "published_f1", "published_params", "difference",
)  # fmt: skip


@dataclass(frozen=True)
class Column:
    """One column: its titles, the number (or name) it shows, and which end of it is good."""

    title: str
    short: str
    value: Callable[[Row], Any]
    text: Callable[[Row], str]
    better: Callable[[Sequence[float]], float] | None = None
    in_terminal: bool = True


@dataclass(frozen=True)
class Table:
    """Cells as text, with the places `(row, column)` of the best values."""

    columns: tuple[Column, ...]
    cells: tuple[tuple[str, ...], ...]
    best: frozenset[tuple[int, int]]
    group_starts: frozenset[int]


def printable(text: str) -> str:
    """Return `text` on one line, with control and invisible characters made visible."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


def percent(fraction: float | None, digits: int = 2) -> str:
    """Return a fraction as per cent without the sign `%`: 0.9732 becomes `97.32`."""
    return MISSING if fraction is None else f"{100 * fraction:.{digits}f}".replace("-", MINUS)


def points(difference: float | None, digits: int = 2) -> str:
    """Return a signed difference of fractions in percentage points: 0.012 becomes `+1.20`."""
    return MISSING if difference is None else f"{100 * difference:+.{digits}f}".replace("-", MINUS)


def mean_and_std(mean: float | None, std: float | None, n_folds: int, digits: int = 2) -> str:
    """Return `97.32 ± 0.41`; a single fold has no spread to show."""
    alone = std is None or n_folds < 2
    return percent(mean, digits) if alone else f"{percent(mean, digits)} ± {percent(std, digits)}"


def difference(row: Row) -> float | None:
    """Return F1 minus published F1, or None where nothing is published."""
    published = row.get("published_f1")
    return None if published is None else row["f1_mean"] - published


def _best_fold(row: Row) -> float | None:
    return row["f1_best"] if row["n_folds"] > 1 else None


def _name(title: str, field: str) -> Column:
    return Column(title, title.lower(), lambda row: row[field], lambda row: printable(row[field]))


def _score(title: str, short: str, field: str, better: Any = max) -> Column:
    return Column(
        title, short, lambda row: row.get(field), lambda row: percent(row.get(field)), better
    )


COLUMNS = (
    _name("Model", "model"),
    _name("Variant", "variant"),
    Column("Replaced layers", "repl.", lambda row: row["replaced"], lambda r: str(r["replaced"])),
    Column("Parameters", "params", lambda r: r["params"], lambda r: f"{r['params']:,}", min),
    _score("Reduction, whole model %", f"{MINUS}whole", "reduction_whole"),
    _score("Reduction, block %", f"{MINUS}block", "reduction_block"),
    Column(
        "F1 %",
        "F1 %",
        lambda row: row["f1_mean"],
        lambda row: mean_and_std(row["f1_mean"], row["f1_std"], row["n_folds"]),
        max,
    ),
    Column("Best fold F1 %", "best", _best_fold, lambda row: percent(_best_fold(row)), max),
    _score("Accuracy %", "acc.", "accuracy_mean"),
    _score("Precision %", "prec.", "precision_mean"),
    _score("Recall %", "rec.", "recall_mean"),
    Column(
        "Inner folds F1 %",
        "inner",
        lambda row: row.get("fold_f1_mean"),
        lambda row: mean_and_std(row.get("fold_f1_mean"), row.get("fold_f1_std"), 2),
        in_terminal=False,
    ),
    _score("Published F1 %", "publ.", "published_f1", better=None),
    Column("Difference, points", "diff.", difference, lambda row: points(difference(row))),
)


def results_table(rows: Sequence[Row], columns: Sequence[Column] = COLUMNS) -> Table:
    """Return the cells of `rows`, without the columns that hold nothing for any row."""
    kept = tuple(c for c in columns if any(c.value(row) is not None for row in rows))
    return Table(
        columns=kept,
        cells=tuple(tuple(column.text(row) for column in kept) for row in rows),
        best=frozenset((i, j) for j, column in enumerate(kept) for i in _best_rows(column, rows)),
        group_starts=frozenset(
            i for i in range(1, len(rows)) if rows[i]["model"] != rows[i - 1]["model"]
        ),
    )


def _best_rows(column: Column, rows: Sequence[Row]) -> list[int]:
    known = {i: value for i, row in enumerate(rows) if (value := column.value(row)) is not None}
    if column.better is None or len(set(known.values())) < 2:
        return []
    best = column.better(list(known.values()))
    return [i for i, value in known.items() if value == best]


def markdown_table(rows: Sequence[Any], columns: Sequence[Column] = COLUMNS) -> str:
    """Return the table as Markdown, best value of each column bold."""
    table = results_table(rows, columns)
    rule = ["---" if j < 2 else "---:" for j in range(len(table.columns))]
    body = [
        [f"**{markdown_cell(cell)}**" if (i, j) in table.best else markdown_cell(cell)
         for j, cell in enumerate(cells)]
        for i, cells in enumerate(table.cells)
    ]  # fmt: skip
    lines = [[column.title for column in table.columns], rule, *body]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def markdown_cell(text: str) -> str:
    """Return text with what Markdown would take for markup escaped."""
    return re.sub(r"([\\`*_\[\]<>|&#~])", r"\\\1", text)


def csv_table(rows: Sequence[Any], fields: Sequence[str] = CSV_FIELDS) -> str:
    """Return the rows as CSV with the field names and fractions of `result.json`.

    A text that a spreadsheet would run as a formula gets a leading apostrophe.
    """
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(fields)
    for row in rows:
        values = {"difference": difference(row), **row}
        writer.writerow([csv_cell(values.get(field)) for field in fields])
    return out.getvalue()


def csv_cell(value: Any) -> Any:
    """Return a value as a spreadsheet may read it: a text that it would run gets an apostrophe."""
    if not isinstance(value, str):
        return value
    text = printable(value)
    return f"'{text}" if text.lstrip()[:1] in FORMULA_STARTS else text


_LATEX = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#",
    "%": r"\%", "_": r"\_", "^": r"\textasciicircum{}", "~": r"\textasciitilde{}",
    "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}", "±": r"$\pm$",
    MINUS: r"$-$", MISSING: "--", '"': r"\textquotedbl{}",
    "[": "{[}", "]": "{]}", "*": "{*}",  # a row may not open like an argument of its line break
}  # fmt: skip


def latex_table(rows: Sequence[Any], columns: Sequence[Column] = COLUMNS) -> str:
    r"""Return the table as a booktabs `tabular`, best value of each column in bold."""
    table = results_table(rows, columns)
    lines = [
        r"% needs \usepackage{booktabs} and, for \textquotedbl, \usepackage[T1]{fontenc}",
        rf"\begin{{tabular}}{{ll{'r' * (len(table.columns) - 2)}}}",
        r"\toprule",
        _latex_line([_latex(column.title) for column in table.columns]),
        r"\midrule",
    ]
    for i, cells in enumerate(table.cells):
        if i in table.group_starts:
            lines.append(r"\midrule")
        lines.append(
            _latex_line(
                rf"\textbf{{{_latex(cell)}}}" if (i, j) in table.best else _latex(cell)
                for j, cell in enumerate(cells)
            )
        )
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", ""])


def _latex(text: str) -> str:
    return "".join(_LATEX.get(character, character) for character in text)


def _latex_line(cells: Any) -> str:
    return " & ".join(cells) + r" \\"


def terminal_table(result: Result) -> RenderableType:
    """Return the table, the shortcut control and the warnings for a terminal of 100 columns."""
    from rich import box
    from rich.console import Group
    from rich.table import Table as RichTable
    from rich.text import Text

    table = results_table(result["rows"], [c for c in COLUMNS if c.in_terminal])
    drawn = RichTable(box=box.SIMPLE_HEAD, padding=0, header_style="dim")
    for j, column in enumerate(table.columns):
        drawn.add_column(
            Text(column.short),
            justify="left" if j < 2 else "right",
            no_wrap=j >= 2,
            overflow="fold",
        )
    for i, cells in enumerate(table.cells):
        if i in table.group_starts:
            drawn.add_section()
        drawn.add_row(
            *(Text(cell, "bold" if (i, j) in table.best else "") for j, cell in enumerate(cells))
        )
    notes = [Text(f"! {printable(note)}", "yellow") for note in result["notes"]]
    evidence = result.get("evidence")
    lines = [Text(printable(evidence["sentences"][0]))] if evidence else []
    return Group(drawn, Text(control_line(result)), *lines, *notes)


def control_line(result: Result) -> str:
    """Return one line with the score of the shortcut control."""
    control = result["shortcut_control"]
    if control is None or control["f1"] is None:
        return "Shortcut control: not measured in this run."
    auc = "" if control["auc"] is None else f", AUC {control['auc']:.3f}"
    label = printable(control["label"])
    return f"Shortcut control ({label}): F1 {percent(control['f1'])} %{auc}."


def parameter_table(rows: Sequence[Mapping[str, Any]]) -> RenderableType:
    """Return published parameter counts beside counted ones, misprints marked."""
    from rich.table import Table as RichTable

    table = RichTable(
        title="Parameters, arXiv 2409.00228, Table III",
        caption="* misprinted in the paper: a digit slipped. Block: eq. (7), within the layers "
        "replaced. Trainable: in the second stage.",
    )
    for title in ("model", "variant"):
        table.add_column(title)
    for title in ("counted", "published", "trainable", "whole %", "block %"):
        table.add_column(title, justify="right")
    for row in rows:
        table.add_row(
            row["model"],
            row["variant"],
            f"{row['params']:,}",
            f"{row['published']:,}{'*' if row['misprint'] else ' '}",
            f"{row['trainable']:,}",
            percent(row["reduction_whole"], 3),
            percent(row["reduction_block"]),
            end_section=row["variant"] == "QTL-M-3",
        )
    return table
