"""Scores as probabilities: how far they can be believed, and how to mend them.

A network's scores rank images; calibration makes them comparable between runs. Platt scaling
fits `sigmoid(slope * logit(score) + shift)` on validation images, temperature scaling only
`slope = 1 / temperature` (Platt 1999; Guo et al., arXiv 1706.04599). Both use Platt's smoothed
targets, so that perfectly separated scores do not lead to an infinite slope.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import numpy as np

from qgraft.errors import DataError
from qgraft.evaluation.statistics import N_RESAMPLES, Interval
from qgraft.evaluation.thresholds import effect, threshold_facts
from qgraft.seeds import numpy_rng

N_BINS = 10
SMALLEST = 1e-7  # scores nearer to 0 or 1 cannot be told apart in single precision
SLOPES = (1e-3, 1e3)


class Calibration(NamedTuple):
    """The map from scores to probabilities; the order of scores never changes."""

    slope: float
    shift: float

    @property
    def temperature(self) -> float:
        """Return what the logits are divided by; above 1 the scores were over-confident."""
        return 1 / self.slope

    def apply(self, scores: np.ndarray) -> np.ndarray:
        """Return calibrated probabilities `(n,)` of scores `(n,)` in 0..1."""
        from scipy.special import expit

        return expit(self.slope * _logit(scores) + self.shift)


class Reliability(NamedTuple):
    """A reliability curve: bins `(n_bins,)` of about equally many scores, from low to high.

    Attributes:
        predicted: mean score of each bin.
        observed: share of anomalous images in it.
        count: images in it.
    """

    predicted: np.ndarray
    observed: np.ndarray
    count: np.ndarray


def fit_calibration(
    scores: np.ndarray, labels: np.ndarray, kind: Literal["platt", "temperature"] = "platt"
) -> Calibration:
    """Fit the map that gives the validation labels the highest likelihood.

    Raises:
        DataError: a class is missing, or the scores are no probabilities.
    """
    from scipy.optimize import minimize

    scores, labels = _checked(scores, labels)
    n_anomalous = int(labels.sum())
    n_normal = len(labels) - n_anomalous
    if not n_anomalous or not n_normal:
        missing = "anomalous" if not n_anomalous else "normal"
        raise DataError(f"calibration needs both classes, but no validation image is {missing}")
    high, low = (n_anomalous + 1) / (n_anomalous + 2), 1 / (n_normal + 2)
    targets, logits = np.where(labels == 1, high, low), _logit(scores)

    def loss(parameters: np.ndarray) -> tuple[float, np.ndarray]:
        z = parameters[0] * logits + parameters[1]
        excess = 1 / (1 + np.exp(-z.clip(-500, 500))) - targets
        value = np.mean(np.logaddexp(0, z) - targets * z)
        return float(value), np.array([np.mean(excess * logits), np.mean(excess)])

    shifts = (0.0, 0.0) if kind == "temperature" else (None, None)
    fitted = minimize(
        loss, np.array([1.0, 0.0]), jac=True, method="L-BFGS-B", bounds=(SLOPES, shifts),
        options={"ftol": 1e-14, "gtol": 1e-9},
    )  # fmt: skip
    return Calibration(float(fitted.x[0]), float(fitted.x[1]))


def reliability_curve(scores: np.ndarray, labels: np.ndarray, n_bins: int = N_BINS) -> Reliability:
    """Return predicted and observed shares in adaptive bins: quantiles of the scores.

    Equal scores share a bin; bins left empty by ties are dropped.

    Raises:
        DataError: the scores are no probabilities.
    """
    scores, labels = _checked(scores, labels)
    members = _membership(scores, n_bins)
    count = members.sum(0)
    return Reliability(scores @ members / count, labels @ members / count, count.astype(int))


def expected_calibration_error(
    scores: np.ndarray,
    labels: np.ndarray,
    groups: np.ndarray | None = None,
    *,
    n_bins: int = N_BINS,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Return the mean gap between predicted and observed share, each image counting once.

    Few images per bin make the value too large, and resampled ones larger still: compare models
    on the same images, and do not read a small value as proof of an error.

    Args:
        scores: probabilities of `anomalous` `(n,)`.
        labels: 0 / 1 `(n,)`.
        groups: photograph of each image; whole photographs are resampled, else single images.
        n_bins: adaptive bins; the bins stay, their contents are resampled.
        level: confidence of the interval.
        seed: decides the resampling.
    """
    scores, labels = _checked(scores, labels)
    gaps = (scores - labels)[:, None] * _membership(scores, n_bins)
    sums, sizes = _per_group(gaps, groups)
    weights = numpy_rng(seed, "calibration error").multinomial(
        len(sums), np.full(len(sums), 1 / len(sums)), N_RESAMPLES
    )
    drawn = np.abs(weights @ sums).sum(1) / (weights @ sizes)
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(np.abs(sums.sum(0)).sum() / len(scores)), float(low), float(high))


def brier_score(scores: np.ndarray, labels: np.ndarray) -> float:
    """Return the mean squared difference between score and label; 0.25 is what a constant 0.5 gets.

    Raises:
        DataError: the scores are no probabilities.
    """
    scores, labels = _checked(scores, labels)
    return float(np.mean((scores - labels) ** 2))


def decision_facts(scores: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    """Return everything a run stores about deciding: validation scores, thresholds, calibration.

    Args:
        scores: probabilities of `anomalous` of validation images `(n,)`.
        labels: 0 / 1 `(n,)`.

    Raises:
        DataError: there is no score, or the scores are no probabilities.
    """
    scores, labels = _checked(scores, labels)
    facts: dict[str, Any] = {
        "scores": scores.tolist(),
        "labels": labels.tolist(),
        "thresholds": threshold_facts(scores, labels),
        "calibration": None,
    }
    if len(set(labels.tolist())) == 2:
        facts["calibration"] = fit_calibration(scores, labels)._asdict()
    return facts


def holdout_facts(
    facts: dict[str, Any], scores: np.ndarray, labels: np.ndarray, groups: np.ndarray | None = None
) -> dict[str, Any]:
    """Return how thresholds and calibration, both chosen before, do on images nobody has seen."""
    thresholds = {
        rule: effect(fact["threshold"], scores, labels == 1)
        for rule, fact in facts["thresholds"].items()
        if fact["threshold"] is not None
    }
    versions = {"as scored": np.asarray(scores, dtype=float)}
    if facts["calibration"]:
        versions["calibrated"] = Calibration(**facts["calibration"]).apply(scores)
    quality = {}
    for name, values in versions.items():
        error = expected_calibration_error(values, labels, groups)
        curve = reliability_curve(values, labels)
        quality[name] = {
            "calibration_error": error.mean,
            "calibration_error_interval": [error.low, error.high],
            "brier": brier_score(values, labels),
            "curve": {key: array.tolist() for key, array in curve._asdict().items()},
        }
    return {"thresholds": thresholds, "quality": quality}


def _logit(scores: np.ndarray) -> np.ndarray:
    clipped = np.clip(np.asarray(scores, dtype=float), SMALLEST, 1 - SMALLEST)
    return np.log(clipped) - np.log1p(-clipped)


def _membership(scores: np.ndarray, n_bins: int) -> np.ndarray:
    """Return which bin each score is in, one-hot `(n, bins in use)`."""
    edges = np.percentile(scores, np.linspace(0, 1, n_bins + 1)[1:-1] * 100)
    _, bins = np.unique(np.searchsorted(edges, scores), return_inverse=True)
    return np.eye(bins.max() + 1)[bins]


def _per_group(gaps: np.ndarray, groups: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Return summed gaps `(n_groups, bins)` and sizes `(n_groups,)`."""
    if groups is None:
        return gaps, np.ones(len(gaps))
    _, index = np.unique(groups, return_inverse=True)
    sums = np.zeros((index.max() + 1, gaps.shape[1]))
    np.add.at(sums, index, gaps)
    return sums, np.bincount(index).astype(float)


def _checked(scores: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return scores as float64 and labels as int64.

    Raises:
        DataError: no score, scores outside 0..1, or labels that do not fit.
    """
    scores, labels = np.asarray(scores, dtype=float), np.asarray(labels)
    if scores.ndim != 1 or scores.shape != labels.shape or not len(scores):
        raise DataError(
            f"calibration needs a score and a label per image, got {scores.shape} and "
            f"{labels.shape}"
        )
    outside = int((~((scores >= 0) & (scores <= 1))).sum())
    if outside:
        raise DataError(f"{outside} of {len(scores)} scores are not probabilities between 0 and 1")
    if not np.isin(labels, (0, 1)).all():
        raise DataError("calibration needs the labels 0 (normal) and 1 (anomalous) only")
    return scores, labels.astype(np.int64)
