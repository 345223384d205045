"""What a distillation study works on: who teaches whom on which images.

The teacher learns from all training images of the classes. Published students see 150 images per
class; under `clean` the next 50 of each class choose the epoch and the whole test set is scored,
under `paper` the first 150 test images of each class do both. Further training images may join
without their labels: what the teacher says about them is all that is known.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from qgraft.config import FitConfig, resolve
from qgraft.data.digits import embedded_transfer_data
from qgraft.data.idx import Digits, read_digits
from qgraft.data.imageset import ImageSet
from qgraft.data.splits import Splits
from qgraft.errors import DataError
from qgraft.seeds import numpy_rng
from qgraft.studies.fit import read_images
from qgraft.training.distillation import UNLABELLED
from qgraft.training.loop import Samples
from qgraft.trunks.features import cached_features

Protocol = Literal["paper", "clean"]
CLASS_SETS = {"0-5": tuple(range(6)), "0-7": tuple(range(8)), "all": tuple(range(10))}
PAPER_TEST_PER_CLASS = 150
SELECT_SHARE = 3  # one validation image for so many training images, few labels
SELECT_TENTH = 10  # one training image in ten chooses the epoch, all labels


class Origin(NamedTuple):
    """Where samples come from: an image has one place, in however many parts it is.

    Attributes:
        names: of all images.
        groups: int64, the photograph of each image.
        teaching: places of the samples a teacher learns from.
        training: places of the samples students learn from, some of those of the teacher.
        validation: places of the samples that choose the epoch.
        test: places of the samples that are scored.
    """

    names: tuple[str, ...]
    groups: np.ndarray
    teaching: np.ndarray
    training: np.ndarray
    validation: np.ndarray
    test: np.ndarray


class DistillTask(NamedTuple):
    """One data set for teacher and students.

    Attributes:
        dataset: its name.
        classes: which classes, as in `0-5`.
        class_names: names of the labels.
        teaching: samples a teacher learns from.
        training: samples students learn from; labels may be `UNLABELLED`.
        validation: samples that choose the epoch.
        test: samples that are scored.
        shown: inputs of the training samples as the teacher sees them.
        shown_test: inputs of the test samples as the teacher sees them.
        origin: which images all these are.
    """

    dataset: str
    classes: str
    class_names: tuple[str, ...]
    teaching: Samples
    training: Samples
    validation: Samples
    test: Samples
    shown: Tensor
    shown_test: Tensor
    origin: Origin

    @property
    def name(self) -> str:
        """Name of its files."""
        return f"{self.dataset}-{self.classes}"

    @property
    def n_classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    @property
    def labels_only(self) -> Samples:
        """Training samples for a student without a teacher: labelled ones, again and again.

        As many as with a teacher, so that an epoch has as many steps.
        """
        places = np.flatnonzero(self.training.labels.numpy() != UNLABELLED)
        n = len(self.training.labels)
        return self.training if len(places) == n else self.training.subset(np.resize(places, n))

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one input."""
        return tuple(self.training.inputs.shape[1:])

    def described(self) -> dict[str, Any]:
        """Return sizes and a hash of all samples."""
        parts = (self.teaching, self.training, self.validation, self.test)
        return {
            "classes": list(self.class_names),
            "unlabelled": int((self.training.labels == UNLABELLED).sum()),
            **{
                name: len(part.labels)
                for name, part in zip(("teaching", "training", "validation", "test"), parts,
                                      strict=True)
            },
            "digest": samples_digest(*parts),
        }  # fmt: skip


def samples_digest(*parts: Samples) -> str:
    """Return the SHA-256 of inputs and labels."""
    sha = hashlib.sha256()
    for part in parts:
        for tensor in part:
            sha.update(repr((tuple(tensor.shape), str(tensor.dtype))).encode())
            sha.update(tensor.contiguous().numpy().tobytes())
    return sha.hexdigest()


def digit_tasks(
    folder: Path,
    datasets: tuple[str, ...],
    classes: tuple[str, ...],
    *,
    protocol: Protocol,
    per_class: int | Literal["all"],
    unlabelled: int = 0,
) -> list[DistillTask]:
    """Return the tasks from folders `mnist` and `fashion-mnist` with four files each.

    Args:
        folder: holds the folders of the data sets.
        datasets: which of them.
        classes: names of `CLASS_SETS`.
        protocol: decides on what the epoch is chosen.
        per_class: labelled images of each class.
        unlabelled: further training images, drawn without looking at their labels.

    Raises:
        DataError: a folder or file is missing, or a class has too few images.
    """
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder; it must hold {' and '.join(datasets)}")
    tasks = []
    for dataset in datasets:
        training, test = (read_digits(folder / dataset, part) for part in ("train", "test"))
        for name in classes:
            chosen = CLASS_SETS[name]
            tasks.append(
                _digit_task(dataset, name, training.only(chosen), test.only(chosen),
                            protocol, per_class, unlabelled)
            )  # fmt: skip
    return tasks


def embedded_task(
    *, protocol: Protocol, per_class: int | Literal["all"], unlabelled: int = 0
) -> DistillTask:
    """Return six classes of the small digits that scikit-learn ships, enlarged."""
    data = embedded_transfer_data()
    parts = [
        Digits(part.images, np.unique(part.labels, return_inverse=True)[1].astype(np.int64))
        for part in (data.training, data.test)
    ]
    return _digit_task("embedded", "6", parts[0], parts[1], protocol, per_class, unlabelled)


def _digit_task(
    dataset: str,
    classes: str,
    training: Digits,
    test: Digits,
    protocol: Protocol,
    per_class: int | Literal["all"],
    unlabelled: int = 0,
) -> DistillTask:
    names = tuple(map(str, np.unique(training.labels)))
    n, scored = len(training.labels), np.arange(len(test.labels))
    if protocol == "paper":
        scored = _each(test.labels, 0, PAPER_TEST_PER_CLASS)
        test = Digits(test.images[scored], test.labels[scored])
    if per_class == "all":
        order = numpy_rng(0, "validation images").permutation(n)
        cut = len(order) // SELECT_TENTH
        select, learn = np.sort(order[:cut]), np.sort(order[cut:])
    else:
        learn = _each(training.labels, 0, per_class)
        stop = per_class + max(1, per_class // SELECT_SHARE)
        select = _each(training.labels, per_class, stop)
    teaching, tested = _samples(training), _samples(test)
    drawn = _drawn(np.setdiff1d(np.arange(n), [*learn, *select]), unlabelled)
    learned = _hiding_labels(teaching, learn, drawn)
    validation = tested if protocol == "paper" else teaching.subset(select)
    places = n + np.arange(len(scored))
    origin = Origin(
        tuple(f"image {k}" for k in [*range(n), *scored]), np.arange(n + len(scored)),
        np.arange(n), np.append(learn, drawn), places if protocol == "paper" else select, places,
    )  # fmt: skip
    return DistillTask(
        dataset, classes, names, teaching, learned, validation, tested, learned.inputs,
        tested.inputs, origin,
    )  # fmt: skip


def _drawn(others: np.ndarray, n: int) -> np.ndarray:
    """Draw `n` places of images to learn from without their labels.

    Raises:
        DataError: there are not so many.
    """
    if n > len(others):
        raise DataError(
            f"{n} unlabelled images were asked for, but only {len(others)} training images "
            "are neither labelled nor used for validation; lower --unlabelled or --per-class"
        )
    return others[numpy_rng(0, "unlabelled images").permutation(len(others))[:n]]


def _hiding_labels(samples: Samples, labelled: np.ndarray, others: np.ndarray) -> Samples:
    """Return the labelled samples, then the others without their labels."""
    found = samples.subset(np.append(labelled, others))
    hidden = torch.full((len(others),), UNLABELLED)
    return Samples(found.inputs, torch.cat([found.labels[: len(labelled)], hidden]))


def _each(labels: np.ndarray, start: int, stop: int) -> np.ndarray:
    """Return the places of images `start` to `stop` of every class, in file order.

    Raises:
        DataError: a class has too few.
    """
    found = []
    for label in np.unique(labels):
        places = np.flatnonzero(labels == label)
        if len(places) <= start:
            raise DataError(
                f"class {label} has {len(places)} images where more than {start} are needed; "
                "lower --per-class"
            )
        found.append(places[start:stop])
    return np.sort(np.concatenate(found))


def _samples(digits: Digits) -> Samples:
    return Samples(torch.from_numpy(digits.images)[:, None], torch.from_numpy(digits.labels))


def image_task(
    images: ImageSet,
    splits: Splits,
    *,
    name: str,
    per_class: int | Literal["all"] = "all",
    unlabelled: int = 0,
) -> DistillTask:
    """Return a task from images of one's own: splits by photograph, hold-out as the test part.

    The teacher learns from the whole training part, students from the first `per_class` images of
    every class and `unlabelled` others.

    Raises:
        DataError: a class has no image, or too few are left without a label.
    """
    pixels = torch.from_numpy(images.images)
    pixels = pixels[:, None] if pixels.ndim == 3 else pixels.permute(0, 3, 1, 2)
    everything = Samples(pixels.contiguous(), torch.from_numpy(images.labels))
    teaching, select, test = (
        everything.subset(part) for part in (splits.train, splits.select, splits.holdout)
    )
    n = len(teaching.labels)
    first = np.arange(n) if per_class == "all" else _each(teaching.labels.numpy(), 0, per_class)
    drawn = _drawn(np.setdiff1d(np.arange(n), first), unlabelled)
    learn = _hiding_labels(teaching, first, drawn)
    origin = Origin(
        images.names, images.groups, splits.train, splits.train[np.append(first, drawn)],
        splits.select, splits.holdout,
    )  # fmt: skip
    return DistillTask(
        name, "all", images.class_names, teaching, learn, select, test, learn.inputs, test.inputs,
        origin,
    )  # fmt: skip


def own_task(
    folder: Path, classes: str, *, per_class: int | Literal["all"], unlabelled: int, seed: int
) -> DistillTask:
    """Return the task of a folder in any layout that `fit` reads, or with the files of MNIST.

    Raises:
        DataError: nothing usable is there.
    """
    if any(folder.glob("train-images-idx3-ubyte*")):
        tasks = digit_tasks(
            folder.resolve().parent, (folder.resolve().name,), (classes,), protocol="clean",
            per_class=per_class, unlabelled=unlabelled,
        )  # fmt: skip
        return tasks[0]
    found = read_images(resolve(FitConfig, {"data": str(folder), "seed": seed}))
    return image_task(
        found.images, found.splits, name=folder.resolve().name or "images", per_class=per_class,
        unlabelled=unlabelled,
    )  # fmt: skip


def on_features(task: DistillTask, trunk: nn.Module) -> DistillTask:
    """Return the task for students that take the features of a frozen trunk."""

    def features(samples: Samples) -> Samples:
        found = cached_features(trunk, samples.inputs, samples_digest(samples))
        return Samples(found.flatten(1), samples.labels)

    return task._replace(
        training=features(task.training),
        validation=features(task.validation),
        test=features(task.test),
    )
