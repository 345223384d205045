"""The two shapes data takes: photographs with boxes, and the labelled images made from them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from qgraft.errors import DataError

NORMAL, ANOMALOUS = 0, 1


@dataclass(frozen=True, slots=True)
class Box:
    """A labelled rectangle, 0-based and half-open: pixels `[y0:y1, x0:x1]`."""

    x0: int
    y0: int
    x1: int
    y1: int
    label: str


@dataclass(frozen=True)
class Photographs:
    """Grey photographs with the defect boxes somebody drew on them.

    Attributes:
        images: `n` arrays, uint8 `(h, w)`.
        defects: the defect class of each photograph, `n` names.
        boxes: the boxes of each photograph, `n` tuples.
        names: file stems, unique, `n` names.
        findings: what a person should know about the files (quirks, skipped files).
    """

    images: Sequence[np.ndarray]
    defects: tuple[str, ...]
    boxes: tuple[tuple[Box, ...], ...]
    names: tuple[str, ...]
    findings: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.names)


@dataclass(frozen=True)
class ImageSet:
    """Labelled images, each tagged with the photograph it came from.

    Attributes:
        images: uint8 `(n, h, w)` grey or `(n, h, w, 3)` colour.
        labels: int64 `(n,)`, indices into `class_names`.
        groups: int64 `(n,)`; images of one photograph share a group and never part.
        names: where each image came from, `n` names.
        class_names: names of the labels; `("normal", "anomalous")` in inspection tasks.
        findings: what a person should know about the files (quirks, skipped files).
    """

    images: np.ndarray
    labels: np.ndarray
    groups: np.ndarray
    names: tuple[str, ...]
    class_names: tuple[str, ...] = ("normal", "anomalous")
    findings: tuple[str, ...] = field(default=())

    def __post_init__(self) -> None:
        lengths = {len(self.images), len(self.labels), len(self.groups), len(self.names)}
        if len(lengths) != 1:
            raise DataError(
                f"images, labels, groups and names must be equally many, got {sorted(lengths)}"
            )

    def __len__(self) -> int:
        return len(self.names)

    def subset(self, index: Sequence[int] | np.ndarray) -> ImageSet:
        """Return the images at `index`, in that order."""
        index = np.asarray(index, dtype=np.int64)
        return replace(
            self,
            images=self.images[index],
            labels=self.labels[index],
            groups=self.groups[index],
            names=tuple(self.names[i] for i in index),
        )

    def digest(self) -> str:
        """Return the SHA-256 of pixels, labels and groups."""
        sha = hashlib.sha256(repr((self.images.shape, self.class_names)).encode())
        for array in (self.images, self.labels, self.groups):
            sha.update(np.ascontiguousarray(array).tobytes())
        return sha.hexdigest()
