"""Where to call an image anomalous: thresholds chosen on validation scores, never on the test.

An image is anomalous if its score is at least the threshold. `f1`, `recall:R` and `precision:P`
need anomalous validation images; `false-alarms:A` is made from normal images alone and holds for
images to come: the threshold lies just above the `ceil((n + 1) (1 - A))`-th smallest of `n`
normal scores, so that a new normal image, exchangeable with those, exceeds it with probability
at most A (split conformal prediction; Vovk, Gammerman and Shafer 2005, section 2.2).
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from qgraft.errors import ConfigError, DataError

RULES = "f1, recall:R, precision:P, false-alarms:A (R, P and A between 0 and 1), or a number"
STORED_RULES = (
    "f1", "recall:0.95", "recall:0.99", "precision:0.95", "false-alarms:0.05", "false-alarms:0.01",
)  # fmt: skip


class Rule(NamedTuple):
    """How to choose a threshold: `kind` is `f1`, `recall`, `precision`, `false-alarms` or `at`."""

    kind: str
    wanted: float = math.nan


def parse_rule(text: str) -> Rule:
    """Read a rule as it is typed: `f1`, `recall:0.99`, `false-alarms:0.01`, `0.7`.

    Raises:
        ConfigError: no such rule, or a number outside what it allows.
    """
    kind, colon, number = text.strip().partition(":")
    if kind == "f1" and not colon:
        return Rule("f1")
    if not colon:
        kind, number = "at", kind
    try:
        wanted = float(number)
    except ValueError:
        wanted = math.nan
    if kind not in ("recall", "precision", "false-alarms", "at") or math.isnan(wanted):
        raise ConfigError(f"threshold {text!r} is none of: {RULES}")
    fits = 0 <= wanted <= 1 if kind == "at" else 0 < wanted <= 1
    if not fits or (kind == "false-alarms" and wanted == 1):
        raise ConfigError(f"threshold {text!r}: {wanted:g} is out of range; allowed: {RULES}")
    return Rule(kind, wanted)


def choose_threshold(rule: Rule, scores: np.ndarray, labels: np.ndarray) -> float:
    """Return the threshold of a rule on validation scores `(n,)` with labels 0 / 1 `(n,)`.

    Raises:
        DataError: the scores cannot be used, or the images do not allow what the rule wants.
    """
    if rule.kind == "at":
        return rule.wanted
    scores, anomalous = _checked(scores, labels)
    if rule.kind == "f1":
        return f1_threshold(scores, anomalous)
    if rule.kind == "recall":
        return recall_threshold(scores, anomalous, rule.wanted)
    if rule.kind == "precision":
        return precision_threshold(scores, anomalous, rule.wanted)
    return false_alarm_threshold(scores[~anomalous], rule.wanted)


def f1_threshold(scores: np.ndarray, anomalous: np.ndarray) -> float:
    """Return the score that, as a threshold, gives the best F1; the highest of equally good ones.

    Raises:
        DataError: no anomalous or no normal image.
    """
    _require(anomalous, "f1", normal=True)
    candidates, hits, alarms = _counts(scores, anomalous)
    f1 = 2 * hits / (alarms + anomalous.sum())
    return float(candidates[np.argmax(f1)])


def recall_threshold(scores: np.ndarray, anomalous: np.ndarray, wanted: float) -> float:
    """Return the highest threshold that finds at least the share `wanted` of the anomalous images.

    Raises:
        DataError: no anomalous image.
    """
    _require(anomalous, f"recall:{wanted:g}", normal=False)
    found = np.sort(scores[anomalous])[::-1]
    recall = np.arange(1, len(found) + 1) / len(found)
    return float(found[np.argmax(recall >= wanted)])


def precision_threshold(scores: np.ndarray, anomalous: np.ndarray, wanted: float) -> float:
    """Return the lowest threshold at which the share `wanted` of the alarms is right.

    Raises:
        DataError: no anomalous or no normal image, or no threshold is that precise.
    """
    _require(anomalous, f"precision:{wanted:g}", normal=True)
    candidates, hits, alarms = _counts(scores, anomalous)
    precise = hits / alarms >= wanted
    if not precise.any():
        raise DataError(
            f"no threshold reaches precision {wanted:g} on the validation images; "
            f"the best is {(hits / alarms).max():.4g}"
        )
    return float(candidates[np.flatnonzero(precise)[-1]])


def false_alarm_threshold(normal_scores: np.ndarray, rate: float) -> float:
    """Return the threshold that a new normal image reaches with probability at most `rate`.

    It may lie above 1, where the highest normal scores are 1: then nothing is called anomalous.

    Raises:
        DataError: fewer than `1 / rate - 1` normal images, too few to promise this.
    """
    n = len(normal_scores)
    allowed = np.flatnonzero(np.arange(1, n + 1) / (n + 1) <= rate)  # how many of n + 1 may exceed
    if not len(allowed):
        raise DataError(
            f"false-alarms:{rate:g} needs at least {math.ceil(1 / rate - 1 - 1e-9)} normal "
            f"validation images, there are {n}; "
            + (f"allow {_up(1 / (n + 1)):g} or more, or add images" if n else "add normal images")
        )
    highest = np.sort(np.asarray(normal_scores, dtype=float))[n - 1 - allowed[-1]]
    return float(np.nextafter(highest, np.inf))


def threshold_facts(scores: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    """Return the usual thresholds, each with what it does to these images, or why it has none."""
    values, anomalous = _checked(scores, labels)
    facts: dict[str, Any] = {}
    for text in STORED_RULES:
        try:
            threshold = choose_threshold(parse_rule(text), scores, labels)
        except DataError as error:
            facts[text] = {"threshold": None, "reason": str(error)}
        else:
            facts[text] = {"threshold": threshold, **effect(threshold, values, anomalous)}
    return facts


def effect(threshold: float, scores: np.ndarray, anomalous: np.ndarray) -> dict[str, float | None]:
    """Return recall, precision, F1 and false-alarm rate at a threshold; None where undefined."""
    called = np.asarray(scores, dtype=float) >= threshold
    anomalous = np.asarray(anomalous, dtype=bool)
    hits, alarms, n = int((called & anomalous).sum()), int(called.sum()), int(anomalous.sum())
    n_normal = len(called) - n
    return {
        "recall": hits / n if n else None,
        "precision": hits / alarms if alarms else None,
        "f1": 2 * hits / (alarms + n) if alarms + n else None,
        "false_alarms": (alarms - hits) / n_normal if n_normal else None,
    }


def _checked(scores: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return scores as float64 and whether each image is anomalous.

    Raises:
        DataError: no score, scores that are not finite, or labels that do not fit.
    """
    scores, labels = np.asarray(scores, dtype=float), np.asarray(labels)
    if scores.ndim != 1 or scores.shape != labels.shape:
        raise DataError(
            f"thresholds need a score and a label per image, got {scores.shape} and {labels.shape}"
        )
    if not len(scores):
        raise DataError("there is no validation image to choose a threshold on")
    broken = int((~np.isfinite(scores)).sum())
    if broken:
        raise DataError(f"{broken} of {len(scores)} validation scores are not finite numbers")
    if not np.isin(labels, (0, 1)).all():
        raise DataError("thresholds need the labels 0 (normal) and 1 (anomalous) only")
    return scores, labels == 1


def _require(anomalous: np.ndarray, rule: str, *, normal: bool) -> None:
    if not anomalous.any():
        raise DataError(
            f"threshold {rule} needs anomalous validation images, there are none; "
            "use false-alarms:A, which is chosen from normal images alone"
        )
    if normal and anomalous.all():
        raise DataError(
            f"threshold {rule} needs normal validation images, there are none; "
            "use recall:R, or a number"
        )


def _counts(scores: np.ndarray, anomalous: np.ndarray) -> tuple[np.ndarray, ...]:
    """Return the distinct scores from high to low, and hits and alarms with each as threshold."""
    order = np.argsort(-scores, kind="stable")
    ordered = scores[order]
    last = np.append(np.flatnonzero(np.diff(ordered)), len(ordered) - 1)  # of each run of ties
    return ordered[last], np.cumsum(anomalous[order])[last], last + 1


def _up(value: float) -> float:
    """Round up to four decimals."""
    return math.ceil(value * 1e4) / 1e4
