"""What a result says, in plain words: the sentences and key figures at the top of a report."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from qgraft.reports.tables import difference, percent, printable

if TYPE_CHECKING:
    from qgraft.reports.rundir import Result, Row


def best_row(rows: Sequence[Row]) -> Row:
    """Return the row with the highest mean F1, the earliest on a tie."""
    return max(rows, key=lambda row: row["f1_mean"])


def best_hybrid(rows: Sequence[Row]) -> Row | None:
    """Return the hybrid row with the highest mean F1."""
    hybrids = [row for row in rows if row["variant"] != "classical"]
    return best_row(hybrids) if hybrids else None


def classical_of(row: Row, rows: Sequence[Row]) -> Row | None:
    """Return the classical row of the same model, or None."""
    same = (r for r in rows if r["model"] == row["model"] and r["variant"] == "classical")
    return next(same, None)


def row_name(row: Row) -> str:
    """Return the words a person uses for a row: `CM-2 with QTL-M-3`, `the classical CM-2`."""
    model, variant = printable(row["model"]), printable(row["variant"])
    return f"the classical {model}" if variant == "classical" else f"{model} with {variant}"


def _score(row: Row) -> str:
    spread = f" ± {percent(row['f1_std'])}" if row["n_folds"] > 1 else ""
    return f"F1 {percent(row['f1_mean'])} %{spread}"


def _distance(gap: float) -> str:
    size = f"{percent(abs(gap))} points"
    if size == "0.00 points":
        return "level with"
    return f"{size} {'above' if gap > 0 else 'below'}"


def _against_the_others(best: Row, rows: Sequence[Row]) -> str:
    if best["variant"] == "classical":
        rival, word = best_hybrid(rows), "the best hybrid"
    else:
        rival, word = classical_of(best, rows), "its classical counterpart"
    if rival is None:
        return ""
    gap = best["f1_mean"] - rival["f1_mean"]
    named = f"{word}, {row_name(rival)}" if best["variant"] == "classical" else word
    spread = max(best["f1_std"], rival["f1_std"])
    within = ", less than one standard deviation," if 0 < abs(gap) < spread else ""
    other = " (scored on other images)" if best["scored_on"] != rival["scored_on"] else ""
    return f"{_distance(gap)} {named}{other}{within}".rstrip(",")


def verdict(result: Result) -> str:
    """Return one sentence: which model is best, and how far from the others."""
    best = best_row(result["rows"])
    name = re.sub("^the classical", "The classical", row_name(best))
    parts = [_against_the_others(best, result["rows"])]
    published, gap = best.get("published_f1"), difference(best)
    if published is not None and gap is not None:
        parts.append(f"{_distance(gap)} the published {percent(published)} %")
    against = " and ".join(part for part in parts if part)
    lead = f"{name} reaches {_score(best)}"
    return f"{lead}, {against}." if against else f"{lead}."


def control_sentence(result: Result) -> str:
    """Return what the power spectrum alone reaches, and what that leaves to explain."""
    control = result["shortcut_control"]
    if control is None or control["f1"] is None:
        return "The shortcut control was not measured, so nobody knows what a shortcut would reach."
    lead = f"The power spectrum alone reaches F1 {percent(control['f1'])} %"
    left = best_row(result["rows"])["f1_mean"] - control["f1"]
    if left <= 0:
        return f"{lead}: no model here does better than that."
    return f"{lead}: only the {percent(left)} points above it need more than that."


def key_figures(result: Result) -> list[tuple[str, str, str]]:
    """Return the figures for the top of the page as (label, number, detail)."""
    best = best_row(result["rows"])
    figures = [("Best F1", f"{percent(best['f1_mean'])} %", row_name(best))]
    classical = classical_of(best, result["rows"])
    if classical is not None and classical is not best:
        score = f"{percent(classical['f1_mean'])} %"
        figures.append(("Classical counterpart", score, row_name(classical)))
    published = best.get("published_f1")
    if published is not None:
        figures.append(("Published F1", f"{percent(published)} %", row_name(best)))
    control = result["shortcut_control"]
    if control is not None and control["f1"] is not None:
        score = f"{percent(control['f1'])} %"
        figures.append(("Spectrum alone", score, printable(control["label"])))
    return figures


def scoring_notes(rows: Sequence[Row]) -> list[str]:
    """Return which rows were scored on which images, one line per kind of score."""
    kinds = dict.fromkeys(row["scored_on"] for row in rows)
    if len(kinds) == 1:
        return [f"All rows: {printable(next(iter(kinds)))}."]
    return [f"{_who(kind, rows)}: {printable(kind)}." for kind in kinds]


def _who(kind: str, rows: Sequence[Row]) -> str:
    members = [row["scored_on"] == kind for row in rows]
    if members == [row["variant"] == "classical" for row in rows]:
        return "Classical rows"
    if members == [row["variant"] != "classical" for row in rows]:
        return "Hybrid rows"
    chosen = (row for row, member in zip(rows, members, strict=True) if member)
    return ", ".join(f"{printable(r['model'])} {printable(r['variant'])}" for r in chosen)
