"""Rows and learning curves of any study in one form, for what looks at several runs at once."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import zip_longest
from pathlib import Path
from typing import Any

from qgraft.errors import RunError
from qgraft.studies.run_index import SCORES, number
from qgraft.training.checkpoint import read_json

# What names a row, whatever the study, in the order in which a person says it.
NAMING = (
    "task", "dataset", "classes", "left_out", "pair", "model", "variant", "head", "ansatz",
    "pooling", "embedding", "student", "n_qubits", "teacher", "shots",
)  # fmt: skip
MAX_ROWS = 10_000


def read_result(run: Path) -> dict[str, Any]:
    """Return the result of a finished run.

    Raises:
        RunError: the folder holds none, or one that no study writes.
    """
    path = run / "result.json"
    if not path.is_file():
        raise RunError(f"{run} holds no result.json: give the folder of a finished run")
    result = read_json(path)
    rows = result.get("rows") if isinstance(result, dict) else None
    if not isinstance(rows, list) or not rows or len(rows) > MAX_ROWS:
        raise RunError(f"{path} holds no rows; it is damaged: run again to write it anew")
    if not all(isinstance(row, dict) and row_name(row) for row in rows):
        raise RunError(f"{path} holds a row without a name; it is damaged: run again")
    if not isinstance(result.get("study"), str) or score_name(rows[0]) is None:
        raise RunError(f"{path} names no study or no score; it is damaged: run again")
    return result


def row_name(row: Mapping[str, Any]) -> str:
    """Return what names a row: `CM-2 QTL-M-1`, `0-1 su4 zx amplitude`."""
    parts = [row[key] for key in NAMING if isinstance(row.get(key), str | int)]
    return " ".join(map(str, parts))[:200]


def score_name(row: Mapping[str, Any]) -> str | None:
    """Return by what a row is scored: a key of `SCORES`."""
    for name in SCORES:
        if number(row.get(f"{name}_mean")) is not None:
            return name
    return None


def read_curves(run: Path) -> dict[str, dict[str, list[list[float]]]]:
    """Return learning curves: row key to quantity to repeats (folds) to values after each epoch.

    Studies that keep one curve for each row give one repeat; an epoch without a value ends a
    repeat.

    Raises:
        RunError: the file is damaged.
    """
    path = run / "curves.json"
    if not path.is_file():
        return {}
    stored = read_json(path)
    try:
        return {str(key): _quantities(value) for key, value in stored.items()}
    except (TypeError, AttributeError, ValueError):
        raise RunError(f"{path} is damaged; delete it, or run again to write it anew") from None


def _quantities(value: Any) -> dict[str, list[list[float]]]:
    if all(number(v) is not None for v in value):
        return {"curve": [[float(v) for v in value]]} if value else {}
    names = dict.fromkeys(name for fold in value for epoch in fold for name in epoch)
    repeats = {name: [_until_none(epoch.get(name) for epoch in fold) for fold in value]
               for name in names}  # fmt: skip
    return {name: kept for name, folds in repeats.items() if (kept := [f for f in folds if f])}


def _until_none(values: Any) -> list[float]:
    kept = []
    for value in values:
        if number(value) is None:
            break
        kept.append(float(value))
    return kept


def mean_curve(repeats: list[list[float]]) -> list[float]:
    """Return the mean over repeats after each epoch; repeats that stopped earlier drop out."""
    columns = zip_longest(*repeats)
    kept = [[value for value in column if value is not None] for column in columns]
    return [sum(values) / len(values) for values in kept]
