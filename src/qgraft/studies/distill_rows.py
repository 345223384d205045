"""Rows of a distillation study, computed from its cells, and the notes beside them."""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt
from typing import Any, NamedTuple

import numpy as np

from qgraft.config import DistillConfig
from qgraft.evaluation.statistics import Interval, bootstrap_mean, corrected_paired_test, sentence
from qgraft.studies.distill_cells import Scores
from qgraft.studies.distill_published import (
    PUBLISHED_GAINS,
    published_student,
    published_teacher,
)
from qgraft.studies.distill_students import Student
from qgraft.studies.distill_tasks import PAPER_TEST_PER_CLASS, DistillTask
from qgraft.studies.distill_teachers import UNIFORM, Teacher

NOBODY = "none"
Z_95 = 1.959964  # half width of a 95 % interval in standard errors


class Cell(NamedTuple):
    """A student under a teacher, `none` for labels alone."""

    task: DistillTask
    student: Student
    teacher: str
    scores: Scores
    is_control: bool


def rows_of(cells: Sequence[Cell], config: DistillConfig) -> list[dict[str, Any]]:
    """Return one row per cell; gains are paired with the same seeds without a teacher."""
    plain = {(c.task.name, c.student): c.scores for c in cells if c.teacher == NOBODY}
    return [_row(cell, plain[cell.task.name, cell.student], config) for cell in cells]


def _row(cell: Cell, plain: Scores, config: DistillConfig) -> dict[str, Any]:
    values = cell.scores.accuracies
    row: dict[str, Any] = {
        "dataset": cell.task.dataset,
        "classes": cell.task.classes,
        "n_qubits": cell.student.n_qubits,
        "teacher": cell.teacher,
        "student": cell.student.name,
        "accuracy_mean": _rounded(values.mean()),
        "accuracy_std": _rounded(values.std(ddof=1)) if len(values) > 1 else 0.0,
        "gain_mean": None,
        "gain_low": None,
        "gain_high": None,
        "p_value": None,
    }
    if cell.teacher != NOBODY:
        gains = values - plain.accuracies
        interval = _possible(bootstrap_mean(gains), plain.accuracies)
        row["gain_mean"] = _rounded(interval.mean)
        if len(values) > 1:
            row["gain_low"], row["gain_high"] = _rounded(interval.low), _rounded(interval.high)
            row["p_value"] = _rounded(corrected_paired_test(gains, 1, 0).p_value)
    published = published_student(
        cell.task.dataset, cell.task.classes, cell.student.n_qubits, cell.student.name, cell.teacher
    )
    return row | {
        "published": published,
        "half_width": _rounded(half_width(published, _published_images(cell))),
        "accuracies": [_rounded(value) for value in values],
        "n_seeds": len(values),
        "params": cell.scores.n_params,
        "is_control": cell.is_control,
    }


def _possible(interval: Interval, plain: np.ndarray) -> Interval:
    """Cut an interval of a gain to what is possible: accuracies end at 0 and 1.

    Where most seeds agree and a few fail, the studentised bootstrap can reach far beyond.
    """
    low, high = -float(plain.mean()), 1 - float(plain.mean())
    return Interval(interval.mean, max(interval.low, low), min(interval.high, high))


def _published_images(cell: Cell) -> int:
    """Return how many test images a published accuracy of such a student was measured on."""
    if cell.student.is_v1:
        return PAPER_TEST_PER_CLASS * cell.task.n_classes
    return len(cell.task.test.labels)


def half_width(accuracy: float | None, n: int) -> float:
    """Return half the 95 % interval of one accuracy on `n` images, 0 where there is none."""
    return 0.0 if accuracy is None else Z_95 * sqrt(accuracy * (1 - accuracy) / n)


def teacher_row(task: DistillTask, teacher: Teacher) -> dict[str, Any]:
    """Return the row of a teacher; its best epoch is reported as published and never used."""
    return {
        "dataset": task.dataset,
        "classes": task.classes,
        "teacher": teacher.name,
        "accuracy": _maybe(teacher.accuracy),
        "best_accuracy": _maybe(teacher.best_accuracy),
        "params": teacher.n_params,
        "published": published_teacher(task.dataset, task.classes, teacher.name),
    }


def _maybe(value: float | None) -> float | None:
    return None if value is None else _rounded(value)


def _rounded(value: float) -> float:
    return round(float(value), 6)


def gains_by_dataset(cells: Sequence[Cell]) -> list[dict[str, Any]]:
    """Return the mean gain on every data set over all settings of the students asked for.

    A seed's gain is first averaged over classes, qubits and teachers: the seeds are what is
    independent. `uniform` is no teacher here.
    """
    plain = {(c.task.name, c.student): c.scores for c in cells if c.teacher == NOBODY}
    found = []
    for dataset in dict.fromkeys(cell.task.dataset for cell in cells):
        taught = [
            c for c in cells
            if c.task.dataset == dataset and not c.is_control and c.teacher not in (NOBODY, UNIFORM)
        ]  # fmt: skip
        if not taught:
            continue
        gains = np.stack(
            [c.scores.accuracies - plain[c.task.name, c.student].accuracies for c in taught]
        )
        before = [plain[c.task.name, c.student].accuracies for c in taught]
        interval = _possible(bootstrap_mean(gains.mean(axis=0)), np.mean(before, axis=0))
        many = gains.shape[1] > 1
        found.append(
            {
                "dataset": dataset,
                "settings": len(taught),
                "n_seeds": gains.shape[1],
                "gain_mean": _rounded(interval.mean),
                "gain_low": _rounded(interval.low) if many else None,
                "gain_high": _rounded(interval.high) if many else None,
                "published": PUBLISHED_GAINS.get(dataset),
                "sentence": _gain_sentence(dataset, interval, many=many),
            }
        )
    return found


def _gain_sentence(dataset: str, interval: Interval, *, many: bool) -> str:
    published = PUBLISHED_GAINS.get(dataset)
    beside = f" Published: {published:+.2f} points." if published is not None else ""
    if not many:
        return (
            f"On {dataset} the taught students of this single run are "
            f"{100 * interval.mean:+.2f} points from those without a teacher.{beside}"
        )
    said = sentence("a taught student", "one without a teacher", interval, where=dataset)
    return f"{said}{beside}"


def notes(config: DistillConfig) -> list[str]:
    """Return what a reader must know before quoting a number."""
    found = []
    if config.protocol == "paper":
        found.append(
            "Paper protocol: the test images choose the epoch that is reported, as published, so "
            "accuracies are too good; use --protocol clean for honest ones. Half the width of a "
            "95 % interval of one run is 1 to 3 points."
        )
    else:
        found.append(
            "The epoch is chosen on validation images that neither trained the student nor are "
            "tested on."
        )
    if config.protocol == "clean" and config.per_class != "all":
        found.append(
            "A published accuracy was the best epoch on 150 test images per class; here the whole "
            "test set is scored."
        )
    found.append(
        "Gains are paired seed by seed: the same initial weights and order of images with and "
        "without a teacher. Each data set has one teacher, so its own spread is not in the "
        "intervals."
    )
    if config.per_class != "all":
        found.append(
            "The teacher learned from all training images, the student from "
            f"{config.per_class} per class: part of a gain is what the teacher knows of images "
            "the student never saw. The uniform teacher shows what label smoothing alone does."
        )
    if config.unlabelled:
        found.append(
            f"{config.unlabelled:,} further training images have no label for the student: the "
            "teacher's part of the loss alone counts there. Students without a teacher see their "
            "labelled images again and again, so all take equally many steps."
        )
    if config.trunks:
        found.append(
            "The teacher was trained in an earlier run: whether it has seen the test images is "
            "not known here."
        )
    if config.data == "embedded":
        found.append(
            "Quick run on the small digits that scikit-learn ships: its accuracies cannot be "
            "compared with the published ones."
        )
    return found
