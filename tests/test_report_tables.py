"""Tables and verdict of a report: the numbers are those of the result, no text breaks them."""

from __future__ import annotations

import csv
import io
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from fake_runs import fake_fit_result, fake_surface_result, markdown_cells, small_result
from qgraft.reports import plots, tables, terminal_table, verdict


def numbers(text: str) -> list[float]:
    return [
        float(n)
        for n in re.findall(r"-?\d+\.?\d*", text.replace(tables.MINUS, "-").replace(",", ""))
    ]


def test_markdown_numbers_are_those_of_the_rows() -> None:
    rows = fake_surface_result()["rows"]
    header, _, *body = markdown_cells(tables.markdown_table(rows))
    assert len(body) == 12
    for cells, row in zip(body, rows, strict=True):
        shown = dict(zip(header, cells, strict=True))
        assert (shown["Model"], shown["Variant"]) == (row["model"], row["variant"])
        assert int(shown["Parameters"].replace(",", "")) == row["params"]
        assert int(shown["Replaced layers"]) == row["replaced"]
        expected = {
            "F1 %": [row["f1_mean"], row["f1_std"]],
            "Best fold F1 %": [row["f1_best"]],
            "Accuracy %": [row["accuracy_mean"]],
            "Precision %": [row["precision_mean"]],
            "Recall %": [row["recall_mean"]],
            "Published F1 %": [row["published_f1"]],
            "Difference, points": [row["f1_mean"] - row["published_f1"]],
        }
        for title, fractions in expected.items():
            assert numbers(shown[title]) == pytest.approx([100 * f for f in fractions], abs=0.0051)


def test_reductions_are_the_published_ones() -> None:
    body = markdown_cells(tables.markdown_table(fake_surface_result()["rows"]))[2:]
    # Equation (7) of arXiv 2409.00228 for the nine hybrids; Table III prints the whole-model ones.
    block = [cells[5] for cells in body if cells[1] != "classical"]
    assert " ".join(block) == "85.54 93.56 96.18 64.43 92.48 96.21 64.43 92.48 96.12"
    whole = [cells[4] for cells in body if cells[1] != "classical"]
    assert " ".join(whole) == "0.21 0.95 37.59 0.13 1.61 48.89 0.06 0.77 90.33"
    assert [cells[4] for cells in body if cells[1] == "classical"] == [tables.MISSING] * 3


def test_csv_holds_the_exact_fractions() -> None:
    rows = fake_surface_result()["rows"]
    read = list(csv.DictReader(io.StringIO(tables.csv_table(rows))))
    for cells, row in zip(read, rows, strict=True):
        for field, value in row.items():
            if field == "confusion":
                continue
            assert cells[field] == ("" if value is None else str(value))
        assert float(cells["difference"]) == row["f1_mean"] - row["published_f1"]


def test_best_values_are_bold_and_ties_share_it() -> None:
    rows = [row | {"recall_mean": 0.5} for row in small_result()["rows"]]
    rows[0] |= {"precision_mean": 1.0}
    rows[2] |= {"precision_mean": 1.0}
    lines = tables.markdown_table(rows).splitlines()[2:]
    assert [line.count("**100.00**") for line in lines] == [1, 0, 1, 0]
    assert "**50.00**" not in tables.markdown_table(rows), "equal everywhere is best nowhere"
    smallest = min(row["params"] for row in rows)
    assert f"**{smallest:,}**" in tables.markdown_table(rows)


def test_columns_without_values_disappear() -> None:
    titles = [c.title for c in tables.results_table(fake_fit_result()["rows"]).columns]
    absent = {"Published F1 %", "Difference, points", "Inner folds F1 %", "Best fold F1 %"}
    assert not absent & set(titles)
    inner = [row | {"fold_f1_mean": 0.9, "fold_f1_std": 0.02} for row in small_result()["rows"]]
    assert "90.00 ± 2.00" in tables.markdown_table(inner)


def test_one_fold_has_no_spread() -> None:
    rows = fake_fit_result()["rows"]
    assert "±" not in tables.markdown_table(rows)
    assert "±" not in verdict.verdict(fake_fit_result())


def test_latex_escapes_every_special_character() -> None:
    row = small_result()["rows"][1] | {"model": r"a_b&c%d$e#f{g}h~i^j\k", "variant": "[x] * <y>"}
    text = tables.latex_table([row])
    assert (
        r"a\_b\&c\%d\$e\#f\{g\}h\textasciitilde{}i\textasciicircum{}j\textbackslash{}k"
        r" & {[}x{]} {*} \textless{}y\textgreater{} & 5 &"
    ) in text
    lines = [line for line in text.splitlines() if line.endswith(r"\\")]
    n_columns = len(re.search(r"\{(l+r+)\}", text).group(1))
    assert {len(re.findall(r"(?<!\\)&", line)) for line in lines} == {n_columns - 1}
    assert [line for line in text.splitlines() if "rule" in line] == [
        r"\toprule", r"\midrule", r"\bottomrule",
    ]  # fmt: skip


@given(st.text(max_size=30))
def test_no_text_breaks_a_table(text: str) -> None:
    row = small_result()["rows"][1] | {"model": text, "variant": text, "scored_on": text}
    (cells,) = csv.DictReader(io.StringIO(tables.csv_table([row])))
    assert cells["model"].strip()[:1] not in tuple("=+-@\t\r") or not cells["model"].strip()
    assert cells["f1_best"] == str(row["f1_best"])
    header, _, body = markdown_cells(tables.markdown_table([row]))
    assert len(header) == len(body)
    assert tables.latex_table([row]).count("\n") == 8
    assert plots._short(text).isprintable()


@pytest.mark.parametrize("start", "=+-@\t\r\uff1d\uff0b\uff0d\uff20")
def test_csv_never_starts_a_formula(start: str) -> None:
    row = small_result()["rows"][0] | {"variant": f"{start}cmd|' /C calc'!A0"}
    (cells,) = csv.DictReader(io.StringIO(tables.csv_table([row])))
    assert cells["variant"].startswith("'")


def terminal(result: dict[str, Any], width: int = 100) -> str:
    out = io.StringIO()
    Console(file=out, width=width, force_terminal=True, color_system="standard").print(
        terminal_table(result)
    )
    return out.getvalue()


def test_terminal_table_fits_a_hundred_columns() -> None:
    result = fake_surface_result()
    drawn = terminal(result)
    plain = re.sub(r"\x1b\[[\d;]*m", "", drawn)
    assert max(map(len, plain.splitlines())) <= 100
    assert "…" not in plain
    for row in result["rows"]:
        assert f"{100 * row['f1_mean']:.2f} ± {100 * row['f1_std']:.2f}" in plain
    assert "\x1b[1m" in drawn, "the best values are bold"
    assert "blur only, 24 spectrum bins): F1 87.70 %, AUC 0.950" in plain
    assert plain.count("\n! ") == 3


def test_terminal_shows_hostile_names_as_text() -> None:
    result = small_result() | {"notes": ["[bold red]x[/] \x1b[2J", "[/nothing]"]}
    result["rows"][0] |= {"model": "[link=x]m", "variant": "\x1b]0;t\x07"}
    drawn = terminal(result, width=140)
    assert "[bold red]x[/] \N{REPLACEMENT CHARACTER}[2J" in drawn
    assert "\x1b[2J" not in drawn
    assert "\x1b]0" not in drawn


# --- verdict -----------------------------------------------------------------------------------


def scored(*rows: tuple[str, str, float, float | None], control: float | None = 0.877) -> Any:
    base = small_result()
    return base | {
        "rows": [
            base["rows"][0] | {"model": model, "variant": variant, "f1_mean": f1, "f1_std": 0.01,
                               "published_f1": published, "scored_on": "hold-out"}
            for model, variant, f1, published in rows
        ],
        "shortcut_control": {"f1": control, "auc": None, "label": "blur only"},
    }  # fmt: skip


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        (
            [("CM-2", "classical", 0.9516, None), ("CM-2", "QTL-M-3", 0.9800, 0.9895)],
            "CM-2 with QTL-M-3 reaches F1 98.00 % ± 1.00, 2.84 points above its classical "
            "counterpart and 0.95 points below the published 98.95 %.",
        ),
        (
            [("CM-2", "classical", 0.9750, None), ("CM-2", "QTL-M-3", 0.9800, None)],
            "CM-2 with QTL-M-3 reaches F1 98.00 % ± 1.00, 0.50 points above its classical "
            "counterpart, less than one standard deviation.",
        ),
        (
            [("CM-3", "classical", 0.98, 0.98), ("CM-3", "QTL-M-3", 0.95, None)],
            "The classical CM-3 reaches F1 98.00 % ± 1.00, 3.00 points above the best hybrid, "
            "CM-3 with QTL-M-3 and level with the published 98.00 %.",
        ),
        ([("mine", "dressed", 0.9, None)], "mine with dressed reaches F1 90.00 % ± 1.00."),
    ],
)
def test_verdict_says_what_the_rows_say(rows: list, sentence: str) -> None:
    assert verdict.verdict(scored(*rows)) == sentence


def test_verdict_names_scores_on_other_images() -> None:
    assert "(scored on other images)" in verdict.verdict(small_result())


def test_control_sentence() -> None:
    row = ("m", "classical", 0.9, None)
    assert verdict.control_sentence(scored(row, control=0.8)).startswith(
        "The power spectrum alone reaches F1 80.00 %: only the 10.00 points"
    )
    assert "no model here does better" in verdict.control_sentence(scored(row, control=0.95))
    assert "not measured" in verdict.control_sentence(scored(row, control=None))
    assert "not measured" in tables.control_line(small_result() | {"shortcut_control": None})
