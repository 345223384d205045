"""Does the quantum part help? Every hybrid beside its controls, with intervals, in plain words.

Differences are paired: the same seed, the same fold, the same images. Under `paper` the unit is the
fold, and folds overlap, so the test is the corrected one of Nadeau and Bengio. Under `clean` the
unit is the photograph of the hold-out, which is resampled. All p values of a study are adjusted
together by Holm's method.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from qgraft.config import TrainingConfig
from qgraft.data.imageset import ImageSet
from qgraft.data.splits import Splits
from qgraft.evaluation.statistics import (
    ALPHA,
    Interval,
    PairedTest,
    Resamples,
    corrected_paired_test,
    draw_photographs,
    f1_scores,
    holm,
    resampled_f1,
    resampled_test,
    sentence,
)
from qgraft.studies.control_heads import (
    CONTROLS,
    MATCHED,
    QUANTUM,
    Bench,
    Kind,
    new_head,
    predicted_classes,
    seeds_of,
)
from qgraft.studies.hybrid import Grafted
from qgraft.studies.run import Run

N_DRAWS = 10_000  # so that the smallest p value survives a hundred comparisons
FEWEST_SEEDS = 3  # for an interval over seeds


class Answers(NamedTuple):
    """What all heads of one kind say.

    Attributes:
        model: name of the network.
        variant: name of the graft.
        kind: what the heads are.
        classes: the class each head gives each image `(n_seeds, n_folds, n)`; -1 where it was
            not asked.
        n_parameters: of one head.
    """

    model: str
    variant: str
    kind: Kind
    classes: np.ndarray
    n_parameters: int


def collect_answers(run: Run, bench: Bench, grafted: Grafted) -> list[Answers]:
    """Return the answers of a hybrid's heads from all seeds, then those of its controls."""
    config = bench.config
    own = _own_classes(grafted, bench.splits)[None]
    if seeds := seeds_of(QUANTUM, config):
        own = np.concatenate([own, predicted_classes(run, bench, QUANTUM, seeds)])
    place = bench.name, bench.hybrid.variant
    found = [Answers(*place, QUANTUM, own, grafted.report.head)]
    for kind in CONTROLS:
        with run.timed(f"{bench.name}/{bench.hybrid.variant}/{kind.name}"):
            classes = predicted_classes(run, bench, kind, seeds_of(kind, config))
        found.append(Answers(*place, kind, classes, _count(bench, kind)))
    return found


def _count(bench: Bench, kind: Kind) -> int:
    like = Kind("dense", "") if not kind.repeats else kind  # a logistic regression is linear
    return sum(p.numel() for p in new_head(bench, like, 0, 0).parameters())


def _own_classes(grafted: Grafted, splits: Splits) -> np.ndarray:
    """Return the classes `(n_folds, n)` given by the heads that a hybrid has already."""
    n = len(grafted.samples.labels)
    classes = np.full((len(splits.folds), n), -1, dtype=np.int64)
    for row, fold, inside in zip(classes, splits.folds, grafted.fold_probabilities, strict=True):
        row[fold] = inside.argmax(1)
    for row, outside in zip(classes, grafted.holdout_probabilities, strict=False):
        row[splits.holdout] = outside.argmax(1)
    return classes


def weigh(
    answers: Sequence[Sequence[Answers]], images: ImageSet, splits: Splits, config: TrainingConfig
) -> dict[str, Any]:
    """Return rows, comparisons and sentences: the part `evidence` of a result.

    Args:
        answers: for each hybrid its own, followed by those of its controls.
        images: labels and photographs.
        splits: hold-out and folds.
        config: protocol, seed, and the data's name.
    """
    judge = _Judge(images, splits, config.seed)
    rows = [_row(one, judge.scores(one)) for group in answers for one in group]
    pairs = [(group[0], control) for group in answers for control in group[1:]]
    tests = [judge.test(hybrid, control) for hybrid, control in pairs]
    adjusted = holm([test.p_value for test in tests])
    where = f"{Path(getattr(config, 'data', 'these images')).name} ({config.protocol})"
    comparisons = [
        _comparison(hybrid, control, judge, test, p)
        for (hybrid, control), test, p in zip(pairs, tests, adjusted, strict=True)
    ]
    sentences = [
        sentence(
            f"{hybrid.kind.says} of {hybrid.model} {hybrid.variant}",
            control.kind.says,
            test.interval,
            where=where,
            p_adjusted=p,
        )
        for (hybrid, control), test, p in zip(pairs, tests, adjusted, strict=True)
    ]
    summary = [_summary(comparisons, where)] if comparisons else []
    return {
        "method": judge.method,
        "rows": rows,
        "comparisons": comparisons,
        "sentences": summary + sentences,
    }


class _Judge:
    """Scores and tests on one set of images, with the same draws for every pair."""

    def __init__(self, images: ImageSet, splits: Splits, seed: int) -> None:
        self.labels, self.splits = images.labels, splits
        self.n_classes = len(images.class_names)
        held, n_folds = splits.holdout, len(splits.folds)
        self.method = f"corrected paired t test over {n_folds} folds, seeds averaged"
        self.resamples: Resamples | None = None
        if len(held):
            groups = images.groups[held]
            self.resamples = draw_photographs(groups, n_draws=N_DRAWS, seed=seed)
            n = len(np.unique(groups))
            self.method = f"bootstrap of the {n} photographs of the hold-out, {N_DRAWS:,} draws"
        self.drawn: dict[tuple[str, str, str], np.ndarray] = {}

    def scores(self, one: Answers) -> np.ndarray:
        """Return the F1 of every head `(n_seeds, n_folds)`: on the hold-out, else on its fold."""
        columns = []
        for number, fold in enumerate(self.splits.folds):
            part = fold if self.resamples is None else self.splits.holdout
            classes = one.classes[:, number, part]
            columns.append(f1_scores(classes, self.labels[part], n_classes=self.n_classes))
        return np.stack(columns, axis=1)

    def differences(self, hybrid: Answers, control: Answers) -> np.ndarray:
        """Return hybrid minus control `(n_seeds, n_folds)`."""
        return self.scores(hybrid) - self.scores(control)

    def test(self, hybrid: Answers, control: Answers) -> PairedTest:
        """Return the difference, its interval and its p value."""
        if self.resamples is not None:
            return resampled_test(self._drawn(hybrid) - self._drawn(control))
        by_fold = self.differences(hybrid, control).mean(0)
        return corrected_paired_test(by_fold, len(by_fold) - 1, 1)

    def over_seeds(self, differences: np.ndarray) -> Interval | None:
        """Return the interval that other initial weights and orders alone would explain.

        Seeds are independent, so it is the plain t interval; a bootstrap of five values is not
        to be trusted.
        """
        by_seed = differences.mean(1)
        if len(by_seed) < FEWEST_SEEDS:
            return None
        return corrected_paired_test(by_seed, n_train=1, n_test=0).interval

    def _drawn(self, one: Answers) -> np.ndarray:
        key = one.model, one.variant, one.kind.name
        if key not in self.drawn:
            assert self.resamples is not None
            held = self.splits.holdout
            heads = one.classes[:, :, held].reshape(-1, len(held))
            self.drawn[key] = resampled_f1(
                self.resamples, heads, self.labels[held], n_classes=self.n_classes
            )
        return self.drawn[key]


def _row(one: Answers, scores: np.ndarray) -> dict[str, Any]:
    return {
        "model": one.model,
        "variant": one.variant,
        "head": one.kind.name,
        "says": one.kind.says,
        "head_params": one.n_parameters,
        "f1_mean": float(scores.mean()),
        "f1_std": float(scores.std(ddof=1)),
        "scores": scores.tolist(),
    }


def _comparison(
    hybrid: Answers, control: Answers, judge: _Judge, test: PairedTest, p_adjusted: float
) -> dict[str, Any]:
    differences = judge.differences(hybrid, control)
    seeds = judge.over_seeds(differences)
    return {
        "model": hybrid.model,
        "variant": hybrid.variant,
        "control": control.kind.name,
        "says": control.kind.says,
        "hybrid_params": hybrid.n_parameters,
        "control_params": control.n_parameters,
        "hybrid_f1": float(judge.scores(hybrid).mean()),
        "control_f1": float(judge.scores(control).mean()),
        "difference": test.interval.mean,
        "std": float(differences.std(ddof=1)),
        "low": test.interval.low,
        "high": test.interval.high,
        "seeds_low": None if seeds is None else seeds.low,
        "seeds_high": None if seeds is None else seeds.high,
        "p_value": test.p_value,
        "p_adjusted": p_adjusted,
    }


def _summary(comparisons: Sequence[dict[str, Any]], where: str) -> str:
    """Say whether circuits beat dense heads of their size, then count all comparisons."""
    equal = [c for c in comparisons if c["control"] == MATCHED.name]
    better, worse = _shown(equal)
    verdict = "nothing shows that the quantum part helps"
    if better and not worse:
        verdict = "the quantum part helps"
    all_better, all_worse = _shown(comparisons)
    return (
        f"On {where} {verdict}: beside a dense head of equal size the quantum head is better in "
        f"{len(better)} of {len(equal)} cases and worse in {len(worse)}. Over all "
        f"{len(comparisons)} comparisons it is better in {_counted(all_better)} and worse in "
        f"{_counted(all_worse)}."
    )


def _shown(comparisons: Sequence[dict[str, Any]]) -> tuple[list[str], list[str]]:
    """Return the controls that are surely worse than the quantum head, and surely better."""
    sure = [c for c in comparisons if c["p_adjusted"] < ALPHA]
    above = [c["says"] for c in sure if c["difference"] > 0]
    return above, [c["says"] for c in sure if c["difference"] < 0]


def _counted(controls: Sequence[str]) -> str:
    """Return `3 (2 against logistic regression, 1 against ...)`."""
    counts = Counter(controls)
    named = ", ".join(f"{n} against {says}" for says, n in counts.items())
    return f"{len(controls)} ({named})" if named else "none"
