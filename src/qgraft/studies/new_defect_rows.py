"""Measures of the new-defect study -> rows of its result: means, spreads, paired differences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

import numpy as np

ALL_TYPES = "all types"
SCORES = ("recall_new", "false_alarms_new", "balanced_new", "f1_old", "recall_old", "seconds")


class Measure(TypedDict):
    """What one head does with one number of examples."""

    shots: int
    recall_new: float
    false_alarms_new: float
    f1_old: float
    recall_old: float
    seconds: float


# (left-out type, head) -> seeds -> numbers of examples
Measures = Mapping[tuple[str, str], Sequence[Sequence[Measure]]]


def result_rows(measures: Measures, parameters: Mapping[str, int]) -> list[dict[str, Any]]:
    """Return a row per left-out type, head and number of examples.

    A loss is the value without any example minus the value with them, seed by seed. Intervals
    are over the seeds. `all types` rows average the types seed by seed first.
    """
    rows = []
    for (left_out, head), seeds in _with_all_types(measures).items():
        table = {name: _table(seeds, name) for name in (*seeds[0][0], "balanced_new")}
        for level, first in enumerate(seeds[0]):
            at = {name: values[:, level] for name, values in table.items()}
            loss = table["f1_old"][:, 0] - at["f1_old"]
            row: dict[str, Any] = {
                "left_out": left_out, "head": head, "shots": first["shots"],
                "n_seeds": len(seeds), "head_params": parameters[head],
            }  # fmt: skip
            for name in SCORES:
                row[f"{name}_mean"], row[f"{name}_std"] = _mean(at[name]), _std(at[name])
            row["recall_new_interval"] = interval(at["recall_new"])
            row["f1_old_loss_mean"], row["f1_old_loss_interval"] = _mean(loss), interval(loss)
            row["recall_old_loss_mean"] = _mean(table["recall_old"][:, 0] - at["recall_old"])
            rows.append(row)
    return rows


def comparison_rows(measures: Measures, heads: Sequence[str]) -> list[dict[str, Any]]:
    """Return how the first head differs from each other one, paired over the seeds."""
    rows = []
    complete = _with_all_types(measures)
    for left_out in dict.fromkeys(name for name, _ in complete):
        for other in heads[1:]:
            pair = complete[left_out, heads[0]], complete[left_out, other]
            for level, first in enumerate(pair[0][0]):
                row: dict[str, Any] = {
                    "left_out": left_out, "head": heads[0], "other": other, "shots": first["shots"]
                }  # fmt: skip
                for name in ("recall_new", "balanced_new", "f1_old", "seconds"):
                    ours, theirs = (_table(seeds, name)[:, level] for seeds in pair)
                    row[f"{name}_difference"] = _mean(ours - theirs)
                    row[f"{name}_interval"] = interval(ours - theirs)
                rows.append(row)
    return rows


def interval(values: np.ndarray) -> list[float] | None:
    """Return Student's 95 % interval of the mean over seeds `(n,)`; None for a single seed.

    Seeds are independent. With the three to five of a study the studentised bootstrap is erratic:
    resamples of nearly equal values divide by almost nothing.
    """
    from scipy import stats

    n = len(values)
    if n < 2:
        return None
    half = float(stats.t.ppf(0.975, n - 1) * values.std(ddof=1) / np.sqrt(n))
    return [_mean(values) - half, _mean(values) + half]


def _with_all_types(measures: Measures) -> dict[tuple[str, str], Sequence[Sequence[Measure]]]:
    """Add, for every head, the mean over the types when there are several."""
    heads = list(dict.fromkeys(head for _, head in measures))
    types = list(dict.fromkeys(left_out for left_out, _ in measures))
    complete = dict(measures)
    if len(types) > 1:
        for head in heads:
            stacks = zip(*(measures[name, head] for name in types), strict=True)
            complete[ALL_TYPES, head] = [
                [_average(level) for level in zip(*stack, strict=True)] for stack in stacks
            ]
    return complete


def _average(measures: Sequence[Measure]) -> Measure:
    mean: Any = {name: float(np.mean([m[name] for m in measures])) for name in measures[0]}
    mean["shots"] = measures[0]["shots"]
    return mean


def _table(seeds: Sequence[Sequence[Measure]], name: str) -> np.ndarray:
    """Return one quantity as `(n_seeds, n_levels)`.

    `balanced_new` is the balanced accuracy on the new photographs, which finding everything and
    calling everything anomalous leave at one half.
    """
    if name == "balanced_new":
        return (1 + _table(seeds, "recall_new") - _table(seeds, "false_alarms_new")) / 2
    return np.array([[level[name] for level in levels] for levels in seeds], dtype=float)


def _mean(values: np.ndarray) -> float:
    return float(values.mean())


def _std(values: np.ndarray) -> float:
    return float(values.std(ddof=1)) if len(values) > 1 else 0.0
