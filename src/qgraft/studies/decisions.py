"""Where a run learns how to decide: thresholds and calibration from images nobody learned from.

Scores of images that a head or its network has learned from are better than those of new images,
and every head has a score scale of its own. So a threshold needs a head that has not seen the
validation images: the decision head, trained on the network's training part, its thresholds chosen
on the selection part. Predictions with a chosen threshold use this head; without one, the final
head, which has learned from both parts.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from torch import nn

from qgraft.config import TrainingConfig
from qgraft.data.imageset import ImageSet
from qgraft.data.splits import Splits
from qgraft.errors import ConfigError, RunError
from qgraft.evaluation.calibration import Calibration, decision_facts, holdout_facts
from qgraft.evaluation.thresholds import choose_threshold, parse_rule
from qgraft.studies.classical import probabilities_of
from qgraft.studies.hybrid import SAMPLE_COST, Hybrid, Part, head_seed, new_graft, train_parts
from qgraft.studies.run import Run
from qgraft.training.checkpoint import read_json
from qgraft.training.loop import Samples

THRESHOLDS_FILE = "thresholds.json"
DECISION = "decision"


class Decision(NamedTuple):
    """How scores are used: an image is anomalous from `threshold` on.

    Attributes:
        threshold: None calls the more probable class.
        calibration: maps scores to calibrated probabilities, or None to leave them.
    """

    threshold: float | None = None
    calibration: Calibration | None = None


def decision_work(splits: Splits, config: TrainingConfig) -> float:
    """Return the training samples of a decision head, in images of CM-2."""
    return SAMPLE_COST * config.head_epochs * len(splits.train)


def decide(
    run: Run,
    model: nn.Module,
    name: str,
    hybrid: Hybrid,
    samples: Samples,
    images: ImageSet,
    splits: Splits,
    config: TrainingConfig,
) -> dict[str, Any]:
    """Train a hybrid's decision head and return what a run stores about its decisions.

    Args:
        run: where everything goes.
        model: the trained network.
        name: its name in the tables.
        hybrid: the graft.
        samples: the features of all images, and their labels.
        images: all images, of two classes.
        splits: the head learns from `train`, is judged on `select` and checked on `holdout`.
        config: training settings.
    """
    head = train_decision(run, model, name, hybrid, samples, splits, config)
    labels = images.labels

    def scores(part: np.ndarray) -> np.ndarray:
        return probabilities_of(head, samples.inputs[part])[:, 1]

    facts = decision_facts(scores(splits.select), labels[splits.select])
    held = splits.holdout
    if len(held):
        facts["holdout"] = holdout_facts(facts, scores(held), labels[held], images.groups[held])
    return facts


def train_decision(
    run: Run,
    model: nn.Module,
    name: str,
    hybrid: Hybrid,
    samples: Samples,
    splits: Splits,
    config: TrainingConfig,
) -> nn.Module:
    """Train the decision head, or read it; of `model` only the layers matter, not weights."""
    seed = head_seed(config, hybrid, config.folds + 1)  # the folds and the final head come first
    head = new_graft(model, name, hybrid, config, seed=seed).head
    parts = [Part(DECISION, splits.train, None)]
    with run.timed(f"{name}/{hybrid.variant}"):
        train_parts(run, [head], name, hybrid, samples, parts, config)
    return head


def read_decision(
    folder: Path, variant: str, *, rule: str | None = None, calibrated: bool = False
) -> Decision:
    """Choose the threshold of a rule such as `recall:0.99` on a run's validation scores.

    Raises:
        ConfigError: no such rule.
        DataError: the validation images do not allow it.
        RunError: the run stored no validation scores, or they are damaged.
    """
    parsed = parse_rule(rule) if rule is not None else None
    if parsed is not None and parsed.kind == "at" and not calibrated:
        return Decision(parsed.wanted)
    facts = _stored(folder, variant)
    try:
        scores, labels = np.array(facts["scores"], dtype=float), np.array(facts["labels"])
        calibration = Calibration(**facts["calibration"]) if facts["calibration"] else None
    except (KeyError, TypeError, ValueError) as error:
        raise RunError(
            f"{folder / THRESHOLDS_FILE} is damaged ({error!r}); run again to write it anew"
        ) from None
    if calibrated:
        if calibration is None:
            raise ConfigError("this run has no calibration: its validation images lack a class")
        scores = calibration.apply(scores)
    threshold = choose_threshold(parsed, scores, labels) if parsed is not None else None
    return Decision(threshold, calibration if calibrated else None)


def _stored(folder: Path, variant: str) -> dict[str, Any]:
    path = folder / THRESHOLDS_FILE
    if not path.exists():
        raise RunError(
            f"{folder} holds no validation scores: it has other than two classes, or an older "
            "version made it; give a number as threshold, or fit again"
        )
    stored = read_json(path)
    if not isinstance(stored, dict) or not isinstance(stored.get(variant), dict):
        raise RunError(f"{path} has no entry for {variant!r}; run again to write it anew")
    return stored[variant]
