"""Runs of one study side by side: the rows they share, and whether their differences are shown.

The first run is the one that the others are compared with. Where runs share their images, splits
and seed, differences are paired: fold by fold with the corrected variance of Nadeau and Bengio
(Machine Learning 52, 2003), seeds averaged first, or seed by seed where there are no folds; all p
values are adjusted together by Holm's method. Otherwise there is no test, only the interval that
treats the runs as unrelated.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from qgraft.errors import RunError
from qgraft.evaluation.statistics import Interval, corrected_paired_test, holm, sentence
from qgraft.reports.series import read_curves, read_result, row_name, score_name
from qgraft.studies.run_index import SCORES, number
from qgraft.training.checkpoint import read_json

LEVEL = 0.95
NOT_COMPARED = ("command", "study")
# Of studies whose curves are single numbers, what these are.
CURVES = {"qcnn": "cost", "distill": "validation accuracy, %"}


@dataclass(frozen=True)
class RowScores:
    """The scores of a row, as fractions.

    Attributes:
        n: of how many heads the mean is.
        folds: True if their training images overlap.
        values: of each head `(n_seeds, n_folds)`, None where only mean and spread were kept.
    """

    mean: float
    std: float
    n: int
    folds: bool
    values: np.ndarray | None

    @property
    def error(self) -> float | None:
        """Standard error of the mean, corrected where folds overlap; None for a single head."""
        n, std = self.n, self.std
        if self.values is not None:
            units = self.values.mean(0) if self.folds else self.values[:, 0]
            n, std = len(units), float(units.std(ddof=1)) if len(units) > 1 else 0.0
        if n < 2:
            return None
        return std * (1 / n + (1 / (n - 1) if self.folds else 0.0)) ** 0.5

    @property
    def freedom(self) -> int:
        """Degrees of freedom of the standard error."""
        units = self.n if self.values is None else self.values.shape[1 if self.folds else 0]
        return units - 1


@dataclass(frozen=True)
class RunScores:
    """What is compared of a run; `rows` and `curves` go by the names of rows."""

    name: str
    study: str
    metric: str
    rows: Mapping[str, RowScores]
    curves: Mapping[str, Mapping[str, list[list[float]]]]
    settings: Mapping[str, Any]
    data: Mapping[str, Any]


@dataclass(frozen=True)
class Difference:
    """A run minus the first one on a row; fractions, intervals None where nothing gives them."""

    row: str
    run: str
    difference: float
    low: float | None
    high: float | None
    p_value: float | None
    p_adjusted: float | None
    paired: bool


@dataclass(frozen=True)
class Compared:
    """Runs, the names of the rows they share, and the differences to the first run.

    Attributes:
        pairing: for each run but the first whether it is paired with it, and why not.
        differing: settings that are not the same in all runs, as text.
    """

    runs: tuple[RunScores, ...]
    rows: tuple[str, ...]
    differences: tuple[Difference, ...]
    sentences: tuple[str, ...]
    pairing: tuple[str, ...]
    differing: tuple[tuple[str, ...], ...]


def compare_runs(folders: Sequence[Path]) -> Compared:
    """Put finished runs side by side.

    Raises:
        RunError: there are fewer than two different ones, they are of different studies, share no
            row, or one of them is not finished or damaged.
    """
    if len({folder.resolve() for folder in folders}) < max(2, len(folders)):
        raise RunError("give two or more different runs to compare, the first as the reference")
    runs = [read_scores(f, name) for f, name in zip(folders, _names(folders), strict=True)]
    first = runs[0]
    for run in runs[1:]:
        if run.study != first.study or run.metric != first.metric:
            raise RunError(
                f"{first.name} is a run of {first.study}, {run.name} of {run.study}: only runs of "
                "one study have rows in common; qgraft runs lists them by --study"
            )
    shared = tuple(name for name in first.rows if all(name in run.rows for run in runs))
    if not shared:
        said = "; ".join(f"{run.name} has {', '.join(list(run.rows)[:4])}" for run in runs)
        raise RunError(f"these runs have no row in common: {said}")
    why = [unpaired_because(first, run) for run in runs[1:]]
    found = [
        _difference(name, first, run, paired=not reason)
        for run, reason in zip(runs[1:], why, strict=True)
        for name in shared
    ]
    tested = [d for d in found if d.p_value is not None]
    adjusted = iter(holm([d.p_value for d in tested if d.p_value is not None]) if tested else ())
    differences = tuple(
        d if d.p_value is None else Difference(**{**vars(d), "p_adjusted": next(adjusted)})
        for d in found
    )
    return Compared(
        runs=tuple(runs),
        rows=shared,
        differences=differences,
        sentences=tuple(_sentence(d, first.name) for d in differences if d.low is not None),
        pairing=tuple(_pairing(first, run, r) for run, r in zip(runs[1:], why, strict=True)),
        differing=_differing(runs),
    )


def _names(folders: Sequence[Path]) -> list[str]:
    """Return the shortest endings of the paths that tell the runs apart."""
    parts = [folder.resolve().parts for folder in folders]
    for length in range(1, max(map(len, parts)) + 1):
        names = ["/".join(own[-length:]) for own in parts]
        if len(set(names)) == len(names):
            return names
    return [str(folder) for folder in folders]


def read_scores(folder: Path, name: str) -> RunScores:
    """Read what is compared of a run.

    Raises:
        RunError: it is not finished, or damaged.
    """
    result = read_result(folder)
    rows: dict[str, RowScores] = {}
    metric = score_name(result["rows"][0]) or ""
    renamed = _fitted_names(result)
    controls = result.get("controls")
    for row in [*result["rows"], *(controls if isinstance(controls, list) else ())]:
        if isinstance(row, dict) and (scores := _row_scores(row, metric)):
            called = row_name(row)
            rows[renamed.get(called, called)] = scores
    rows |= _evidence_scores(result.get("evidence"), metric, renamed)
    curves = {_curve_name(key, renamed): value for key, value in read_curves(folder).items()}
    return RunScores(
        name=name,
        study=result["study"],
        metric=metric,
        rows=rows,
        curves=curves,
        settings=_object(folder / "config.json"),
        data=_object(folder / "data.json"),
    )


def _fitted_names(result: Mapping[str, Any]) -> dict[str, str]:
    """Return what the rows of a fit are called: one network and one graft, whatever they are.

    So a fit with one head can be compared with a fit with another.
    """
    if result["study"] != "fit":
        return {}
    return {
        row_name(row): "network" if row.get("variant") == "classical" else "graft"
        for row in result["rows"]
    }


def _curve_name(key: str, renamed: Mapping[str, str]) -> str:
    called = key.replace("/", " ")
    return renamed.get(called, called)


def _row_scores(row: Mapping[str, Any], metric: str) -> RowScores | None:
    mean = number(row.get(f"{metric}_mean"))
    if mean is None:
        return None
    over_folds = isinstance(row.get("n_folds"), int) and row["n_folds"] > 1
    n = row.get("n_folds") if over_folds else row.get("n_seeds", 1)
    values = _array([row.get("f1_folds")]) if over_folds else None
    if values is None and isinstance(row.get("accuracies"), list):
        column = _array([row["accuracies"]])
        values = None if column is None else column.T
    return RowScores(
        mean=mean,
        std=number(row.get(f"{metric}_std")) or 0.0,
        n=n if isinstance(n, int) and n > 0 else 1,
        folds=over_folds,
        values=values,
    )


def _evidence_scores(
    evidence: Any, metric: str, renamed: Mapping[str, str]
) -> dict[str, RowScores]:
    """Return the scores over seeds and folds of every hybrid and of its controls."""
    found: dict[str, RowScores] = {}
    if metric != "f1" or not isinstance(evidence, dict):
        return found
    for row in evidence.get("rows") or ():
        values = _array(row.get("scores")) if isinstance(row, dict) else None
        if values is None:
            continue
        hybrid = f"{row.get('model')} {row.get('variant')}"
        hybrid = renamed.get(hybrid, hybrid)
        quantum = row.get("head") == "dressed"
        name = hybrid if quantum else f"{hybrid}: {row.get('says') or row.get('head')}"
        folds = values.shape[1] > 1
        spread = float(values.std(ddof=1)) if values.size > 1 else 0.0
        found[name[:200]] = RowScores(float(values.mean()), spread, values.size, folds, values)
    return found


def _array(values: Any) -> np.ndarray | None:
    """Return finite numbers `(n_seeds, n_folds)`, None for anything else."""
    try:
        array = np.asarray(values, dtype=float)
    except (TypeError, ValueError):
        return None
    return array if array.ndim == 2 and array.size and np.isfinite(array).all() else None


def _object(path: Path) -> dict[str, Any]:
    value = read_json(path) if path.is_file() else {}
    return value if isinstance(value, dict) else {}


def unpaired_because(first: RunScores, run: RunScores) -> str:
    """Return why the heads of two runs do not correspond, nothing if they do."""
    if "digest" not in first.data or "digest" not in run.data:
        return "data.json, which tells on what images a run was made, is missing"
    if first.data["digest"] != run.data["digest"]:
        return "their images are not the same"
    if first.data.get("splits") != run.data.get("splits"):
        return "their images are split in other ways"
    if first.settings.get("seed") != run.settings.get("seed"):
        return "their seeds differ"
    return ""


def _pairing(first: RunScores, run: RunScores, why: str) -> str:
    if why:
        return (
            f"{run.name} and {first.name} are not paired: {why}. Their differences are not "
            "tested; intervals take the runs as unrelated and are wide."
        )
    return (
        f"{run.name} and {first.name} share images, splits and seed: where the scores of single "
        "heads were kept, differences are paired and tested."
    )


def _difference(name: str, first: RunScores, run: RunScores, *, paired: bool) -> Difference:
    ours, theirs = run.rows[name], first.rows[name]
    gap = ours.mean - theirs.mean
    if paired and ours.values is not None and theirs.values is not None:
        n_seeds = min(len(ours.values), len(theirs.values))
        if ours.values.shape[1] == theirs.values.shape[1]:
            by_head = ours.values[:n_seeds] - theirs.values[:n_seeds]
            return _paired(name, run.name, by_head)
    interval = _unrelated(gap, ours, theirs)
    low, high = (None, None) if interval is None else (interval.low, interval.high)
    return Difference(name, run.name, gap, low, high, None, None, paired=False)


def _paired(name: str, run: str, by_head: np.ndarray) -> Difference:
    """Test differences of heads `(n_seeds, n_folds)` that belong together."""
    n_seeds, n_folds = by_head.shape
    if n_folds > 1:
        test = corrected_paired_test(by_head.mean(0), n_folds - 1, 1, level=LEVEL)
    elif n_seeds > 1:
        test = corrected_paired_test(by_head[:, 0], n_train=1, n_test=0, level=LEVEL)
    else:
        return Difference(name, run, float(by_head.mean()), None, None, None, None, paired=True)
    return Difference(name, run, *test.interval, test.p_value, None, paired=True)


def _unrelated(gap: float, ours: RowScores, theirs: RowScores) -> Interval | None:
    """Return the interval of a difference of unrelated means (Welch 1947)."""
    from scipy import stats

    a, b = ours.error, theirs.error
    if a is None or b is None:
        return None
    if a == b == 0:
        return Interval(gap, gap, gap)
    freedom = (a**2 + b**2) ** 2 / (a**4 / ours.freedom + b**4 / theirs.freedom)
    half = float(stats.t.ppf((1 + LEVEL) / 2, freedom)) * (a**2 + b**2) ** 0.5
    return Interval(gap, gap - half, gap + half)


def mean_interval(scores: RowScores) -> tuple[float, float] | None:
    """Return the interval of a mean score, None for a single head."""
    from scipy import stats

    if scores.error is None:
        return None
    half = float(stats.t.ppf((1 + LEVEL) / 2, scores.freedom)) * scores.error
    return max(scores.mean - half, 0.0), min(scores.mean + half, 1.0)


def _sentence(found: Difference, first: str) -> str:
    low, high = found.low or 0.0, found.high or 0.0  # only those with an interval come here
    interval = Interval(found.difference, low, high)
    return sentence(found.run, first, interval, where=found.row, p_adjusted=found.p_adjusted)


def _differing(runs: Sequence[RunScores]) -> tuple[tuple[str, ...], ...]:
    """Return the settings that are not the same in all runs: name, then its values."""
    names = dict.fromkeys(name for run in runs for name in run.settings)
    lines = []
    for name in names:
        values = [run.settings.get(name) for run in runs]
        if name not in NOT_COMPARED and any(value != values[0] for value in values):
            lines.append((name, *(_shown(value) for value in values)))
    return tuple(lines)


def _shown(value: Any) -> str:
    text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    return "not set" if value is None else text[:80]


def describe_metric(compared: Compared) -> str:
    """Return what the runs are scored by."""
    return SCORES[compared.runs[0].metric]
