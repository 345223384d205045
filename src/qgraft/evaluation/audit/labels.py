"""Images whose label a simple model, which has not seen them, contradicts with confidence.

The model is a ridge regression on small grey copies and their radial spectrum, fitted on four
fifths of the photographs and asked about the rest. An image is a candidate when its margin
(score of its own class minus the best other) lies so far below those of its class that no
image of a well labelled set should; where classes overlap, nothing is reported.
"""

from __future__ import annotations

from collections.abc import Iterator
from statistics import NormalDist
from typing import NamedTuple

import numpy as np

from qgraft.evaluation.audit.evidence import Evidence
from qgraft.evaluation.audit.findings import Finding, finding
from qgraft.evaluation.shortcuts import radial_spectrum
from qgraft.seeds import numpy_rng

N_FOLDS = 5
FEWEST = 20  # images of each class, so that every fold leaves enough to learn from
RIDGE = 0.1  # penalty relative to the number of images; 280 inputs need it below 1,000 images
FALSE_ALARMS = 0.01  # how often a clean set may have a candidate, if its margins are normal
SEPARATED = 2.0  # a class is judged only if its typical margin is this many spreads above 0
FARTHEST = 3.0  # standardised inputs end here, so that one odd image does not outweigh a class
CONFIDENT = 0.5  # a candidate's margin is the reverse of at least half the typical one
MOST = 0.2  # beyond this share of a class the model is wrong, not the labels


class OutOfFold(NamedTuple):
    """What the model says of images it has not seen: margins `(n,)` and predicted labels."""

    margins: np.ndarray
    predicted: np.ndarray


def label_noise(evidence: Evidence, *, seed: int = 0) -> Iterator[Finding]:
    """Report candidates of wrong labels."""
    n_classes = len(evidence.class_names)
    if n_classes < 2 or np.bincount(evidence.labels, minlength=n_classes).min() < FEWEST:
        return
    margins, predicted = out_of_fold(evidence, seed=seed)
    limit = NormalDist().inv_cdf(1 - FALSE_ALARMS / len(evidence))
    doubtful = np.zeros(len(evidence), dtype=bool)
    for label in range(n_classes):
        own = evidence.labels == label
        typical = np.median(margins[own])
        spread = 1.4826 * np.median(np.abs(margins[own] - typical))
        low = min(typical - limit * spread, -CONFIDENT * typical)
        candidates = own & (margins < low)
        if typical > SEPARATED * spread and candidates.sum() <= MOST * own.sum():
            doubtful |= candidates
    if doubtful.any():
        index = np.flatnonzero(doubtful)
        index = index[np.argsort(margins[index])]
        right = float((predicted == evidence.labels).mean())
        yield finding(
            "label_noise",
            "medium",
            (
                f"{evidence.names[i]}: {evidence.class_names[evidence.labels[i]]}, looks like "
                f"{evidence.class_names[predicted[i]]}"
                for i in index
            ),
            f"{len(index)} of {len(evidence)} images like those of another class to a simple model "
            f"that agrees with {100 * right:.1f} % of the labels: look, and correct what is wrong",
        )


def out_of_fold(evidence: Evidence, *, seed: int = 0) -> OutOfFold:
    """Fit the model without each fifth of the groups and return what it says of that fifth."""
    inputs = _inputs(evidence)
    groups = np.unique(evidence.groups, return_inverse=True)[1]
    fold = numpy_rng(seed, "label noise").permutation(groups.max() + 1)[groups] % N_FOLDS
    counts = np.bincount(evidence.labels, minlength=len(evidence.class_names))
    targets = np.eye(len(counts))[evidence.labels]
    weights = len(evidence) / (len(counts) * counts[evidence.labels])  # classes count alike
    scores = np.zeros_like(targets)
    for k in range(N_FOLDS):
        seen, unseen = fold != k, fold == k
        weighted = inputs[seen] * weights[seen, None]
        gram = weighted.T @ inputs[seen] + RIDGE * seen.sum() * np.eye(inputs.shape[1])
        scores[unseen] = inputs[unseen] @ np.linalg.solve(gram, weighted.T @ targets[seen])
    every = np.arange(len(evidence))
    own = scores[every, evidence.labels].copy()
    others = scores.copy()
    others[every, evidence.labels] = -np.inf
    return OutOfFold(own - others.max(1), scores.argmax(1))


def _inputs(evidence: Evidence) -> np.ndarray:
    """Return standardised inputs `(n, 1 + 256 + 24)` with a constant in front."""
    tiny = evidence.tiny().reshape(len(evidence), -1)
    raw = np.hstack([tiny, radial_spectrum(evidence.small)])
    spread = raw.std(0)
    centred = (raw - raw.mean(0)) / np.where(spread > 1e-6, spread, 1.0)
    return np.hstack([np.ones((len(raw), 1)), centred.clip(-FARTHEST, FARTHEST)])
