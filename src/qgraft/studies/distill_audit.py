"""The audit of a distillation study: what is wrong with the images it learns from and scores.

Three parts must share nothing: what a teacher or a student learns from, what chooses the epoch,
and what is scored. A teacher of digits learns from the validation images too; that is by design,
so they count for validation alone.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from qgraft.data.imageset import ImageSet
from qgraft.evaluation.audit import Finding, audit_split
from qgraft.seeds import numpy_rng
from qgraft.studies.distill_tasks import DistillTask
from qgraft.training.distillation import UNLABELLED

COMPARED = 3_000  # images of each part in which near-duplicates are sought: seconds, not minutes


def audit_task(task: DistillTask) -> list[Finding]:
    """Return what is wrong with the images of a task; worst first."""
    origin = task.origin
    learned = _learned(task)
    samples = (task.teaching.subset(learned), task.validation, task.test)
    places = np.concatenate([origin.teaching[learned], origin.validation, origin.test])
    pixels = torch.cat([part.inputs for part in samples])
    pixels = pixels[:, 0] if pixels.shape[1] == 1 else pixels.permute(0, 2, 3, 1)
    parts = _parts(task)
    images = ImageSet(
        pixels.contiguous().numpy(),
        torch.cat([part.labels for part in samples]).numpy(),
        origin.groups[places],
        _names(task, parts, places),
        task.class_names,
    )
    shown = np.isin(places, origin.training)
    return audit_split(images, parts, task.name, _compared(parts, shown))


def audit_limits(tasks: Sequence[DistillTask]) -> list[str]:
    """Say, in one sentence, what the audits of tasks did not look at, if anything."""
    large = []
    for task in tasks:
        sizes = {part: len(members) for part, members in _parts(task).items()}
        listed = ", ".join(f"{n:,} {part}" for part, n in sizes.items() if n > COMPARED)
        large += [f"{task.name}: {listed}"] if listed else []
    if not large:
        return []
    return [
        f"The audit sought near-duplicates among {COMPARED:,} images of each larger part "
        f"({'; '.join(large)}), those of the students before those of the teacher alone, otherwise "
        "drawn at random; equal images and everything else were sought among all."
    ]


def _learned(task: DistillTask) -> np.ndarray:
    """Return which of the teacher's samples are not there to choose the epoch."""
    return np.flatnonzero(~np.isin(task.origin.teaching, task.origin.validation))


def _parts(task: DistillTask) -> dict[str, np.ndarray]:
    """Return the numbers of the images of each part, in one row."""
    sizes = (len(_learned(task)), len(task.origin.validation), len(task.origin.test))
    ends = np.cumsum(sizes)
    numbers = np.split(np.arange(ends[-1]), ends[:-1])
    return dict(zip(("training", "validation", "test"), numbers, strict=True))


def _names(task: DistillTask, parts: dict[str, np.ndarray], places: np.ndarray) -> tuple[str, ...]:
    """Return the part, who learns from it where a student does not see its label, and the name."""
    is_labelled = task.training.labels.numpy() != UNLABELLED
    labelled = set(task.origin.training[is_labelled].tolist())
    unlabelled = set(task.origin.training[~is_labelled].tolist())

    def name(part: str, place: int) -> str:
        own = task.origin.names[place]
        if part != "training" or place in labelled:
            return f"{part} {own}"
        return f"{part} ({'without label' if place in unlabelled else 'teacher only'}) {own}"

    return tuple(name(part, int(places[k])) for part, members in parts.items() for k in members)


def _compared(parts: dict[str, np.ndarray], shown: np.ndarray) -> np.ndarray:
    """Draw images of every part, those shown to students first."""
    rng = numpy_rng(0, "images to compare")
    drawn = []
    for members in parts.values():
        order = rng.permutation(members)
        first = np.argsort(~shown[order], kind="stable")
        drawn.append(order[first][:COMPARED])
    return np.sort(np.concatenate(drawn))
