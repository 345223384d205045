"""Is one model better than another? Intervals and paired tests that know what overlaps.

Scores of folds are not independent: any two folds share most of their training images, and all
heads of a study share the hold-out. So two questions are kept apart. *Would other training draws
decide otherwise?* is answered over folds and seeds with the corrected variance of Nadeau and
Bengio (Machine Learning 52, 2003). *Would other test images?* is answered by resampling whole
photographs of the hold-out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from qgraft.seeds import numpy_rng

N_RESAMPLES = 2000
ALPHA = 0.05


class Interval(NamedTuple):
    """An estimate with its confidence interval."""

    mean: float
    low: float
    high: float

    @property
    def excludes_zero(self) -> bool:
        """Tell whether zero lies outside the interval."""
        return self.low > 0 or self.high < 0


class PairedTest(NamedTuple):
    """A mean paired difference, its interval and two-sided p value."""

    interval: Interval
    p_value: float


def corrected_paired_test(
    differences: np.ndarray, n_train: int, n_test: int, *, level: float = 0.95
) -> PairedTest:
    """Test paired score differences of overlapping folds `(n_repeats,)` against zero.

    The variance of the mean is `(1 / n_repeats + n_test / n_train) * s**2` instead of
    `s**2 / n_repeats` (Nadeau and Bengio 2003, eq. 9), with `n_repeats - 1` degrees of freedom.
    """
    from scipy import stats

    differences = np.asarray(differences, dtype=float).ravel()
    n, mean = len(differences), float(differences.mean())
    if n < 2:
        return PairedTest(Interval(mean, float("-inf"), float("inf")), 1.0)
    spread = float(np.sqrt((1 / n + n_test / n_train) * differences.var(ddof=1)))
    if spread == 0.0:
        return PairedTest(Interval(mean, mean, mean), 1.0 if mean == 0 else 0.0)
    half = float(stats.t.ppf((1 + level) / 2, n - 1)) * spread
    p_value = 2 * float(stats.t.sf(abs(mean) / spread, n - 1))
    return PairedTest(Interval(mean, mean - half, mean + half), p_value)


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjust p values for several comparisons (Holm 1979)."""
    order = np.argsort(p_values)
    adjusted, running = np.empty(len(order)), 0.0
    for rank, index in enumerate(order):
        running = max(running, min(1.0, (len(order) - rank) * p_values[index]))
        adjusted[index] = running
    return adjusted.tolist()


def bootstrap_mean(values: np.ndarray, *, level: float = 0.95, seed: int = 0) -> Interval:
    """Return mean and studentised bootstrap interval of independent values `(n,)`.

    The studentised form keeps its coverage at the small n of a study over seeds, where the
    percentile form is too narrow.
    """
    values = np.asarray(values, dtype=float)
    n, mean = len(values), float(values.mean())
    error = values.std(ddof=1) / np.sqrt(n) if n > 1 else np.inf
    if error == 0.0 or n < 2:
        return Interval(mean, mean - error, mean + error)
    rng = numpy_rng(seed, "bootstrap mean", n)
    drawn = values[rng.integers(0, n, (N_RESAMPLES, n))]
    errors = drawn.std(axis=1, ddof=1) / np.sqrt(n)
    with np.errstate(divide="ignore", invalid="ignore"):
        pivots = (drawn.mean(axis=1) - mean) / errors
    low, high = np.quantile(pivots[np.isfinite(pivots)], [(1 - level) / 2, (1 + level) / 2])
    return Interval(mean, mean - high * error, mean - low * error)


class Resamples(NamedTuple):
    """Draws of whole photographs with replacement.

    Attributes:
        weights: how often each draw holds each photograph `(1 + n_draws, n_photographs)`; the
            first row is the hold-out itself.
        photograph: number of the photograph of each image `(n,)`.
    """

    weights: np.ndarray
    photograph: np.ndarray


def draw_photographs(groups: np.ndarray, *, n_draws: int = N_RESAMPLES, seed: int = 0) -> Resamples:
    """Draw as many photographs as there are in `groups` `(n,)`, `n_draws` times."""
    _, photograph = np.unique(groups, return_inverse=True)
    n = int(photograph.max()) + 1
    draws = numpy_rng(seed, "bootstrap photographs").multinomial(n, np.full(n, 1 / n), n_draws)
    return Resamples(np.vstack([np.ones(n), draws]), photograph)


def resampled_f1(
    resamples: Resamples, predicted: np.ndarray, labels: np.ndarray, *, n_classes: int = 2
) -> np.ndarray:
    """Return the mean F1 over several heads `(1 + n_draws,)`, first that of the hold-out itself.

    Args:
        resamples: the draws; equal ones for all models that are compared.
        predicted: classes by the heads of one model `(n_heads, n)`.
        labels: true classes `(n,)`.
        n_classes: F1 is that of class 1 for two classes, else the mean over the classes.
    """
    return _f1(*resamples, predicted, labels, n_classes).mean(1)


def f1_scores(predicted: np.ndarray, labels: np.ndarray, *, n_classes: int = 2) -> np.ndarray:
    """Return the F1 `(n_heads,)` of predicted classes `(n_heads, n)`."""
    alone = np.zeros(len(labels), dtype=int)
    return _f1(np.ones((1, 1)), alone, np.asarray(predicted), labels, n_classes)[0]


def resampled_test(gaps: np.ndarray, *, level: float = 0.95) -> PairedTest:
    """Return percentile interval and two-sided p value of a difference and its draws.

    Args:
        gaps: the difference found, then those of the draws `(1 + n_draws,)`.
        level: confidence of the interval.
    """
    found, draws = float(gaps[0]), gaps[1:]
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
    tail = min(int((draws <= 0).sum()), int((draws >= 0).sum()))
    p_value = min(1.0, 2 * (tail + 1) / (len(draws) + 1))
    return PairedTest(Interval(found, float(low), float(high)), p_value)


def f1_difference(
    predicted: np.ndarray,
    reference: np.ndarray,
    labels: np.ndarray,
    groups: np.ndarray,
    *,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Return the difference in F1 on a hold-out, interval by resampling whole photographs.

    Args:
        predicted: classes 0 / 1 by the heads of one model, `(n_heads, n)`.
        reference: the same by the model it is compared with, `(n_heads, n)`.
        labels: true classes `(n,)`.
        groups: photograph of each image `(n,)`.
        level: confidence of the interval.
        seed: decides the resampling.
    """
    resamples = draw_photographs(groups, seed=seed)
    ours, theirs = (resampled_f1(resamples, heads, labels) for heads in (predicted, reference))
    return resampled_test(ours - theirs, level=level).interval


def _f1(
    weights: np.ndarray,
    photograph: np.ndarray,
    predicted: np.ndarray,
    labels: np.ndarray,
    n_classes: int,
) -> np.ndarray:
    """Return the F1 of every head for every row of photograph weights `(n_rows, n_heads)`."""

    def per_photograph(hits: np.ndarray) -> np.ndarray:
        table = np.zeros((weights.shape[1], len(hits)))
        np.add.at(table, photograph, hits.T)
        return weights @ table

    classes = [1] if n_classes == 2 else range(n_classes)
    scores = np.zeros((len(weights), len(predicted)))
    for c in classes:
        is_true, called = labels == c, predicted == c
        true, wrong = per_photograph(called & is_true), per_photograph(called != is_true)
        total = 2 * true + wrong
        scores += np.divide(2 * true, total, out=np.zeros_like(total), where=total > 0)
    return scores / len(classes)


def sentence(
    name: str, other: str, interval: Interval, *, where: str, p_adjusted: float | None = None
) -> str:
    """Say in plain words what an interval of a difference of fractions means.

    With `p_adjusted`, the p value after adjustment for all comparisons of a study, an interval
    without zero alone is called a hint.
    """
    points = [100 * value for value in interval]
    side = "above" if points[0] >= 0 else "below"
    verdict = "no evidence of a difference"
    if interval.excludes_zero or (p_adjusted is not None and p_adjusted < ALPHA):
        better = name if points[0] > 0 else other
        verdict = f"{better} is better"
        if p_adjusted is not None and p_adjusted >= ALPHA:
            verdict = f"a hint that {better} is better, not enough among so many comparisons"
    return (
        f"On {where} {name} is {abs(points[0]):.1f} points {side} {other}, "
        f"interval {points[1]:.1f} to {points[2]:.1f}: {verdict}."
    )
