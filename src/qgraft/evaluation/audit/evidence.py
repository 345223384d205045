"""What the audit keeps of every image: a small grey copy, a hash and a handful of numbers.

Ten thousand images of any size fit into 50 MB this way, and every check works on arrays.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from qgraft.data.images import as_channels, resize
from qgraft.data.imageset import ImageSet
from qgraft.data.surface import CUT_MARK

N_SMALL = 64  # side of the small copy: fine enough to tell one steel photograph from the next
N_TINY = 16  # side of the copy that finds the nearest neighbour
LARGEST = 512  # larger images are shrunk first: no network here sees more


class Sketch(NamedTuple):
    """What is kept of one image.

    Attributes:
        small: uint8 `(64, 64)`, grey.
        digest: SHA-256 of shape and pixels.
        brightness: mean grey, 0 to 255.
        contrast: standard deviation of grey.
        sharpness: see `sharpness_of`.
        height: in pixels; of a crop, before it was magnified.
        width: in pixels; of a crop, before it was magnified.
        is_colour: whether any pixel is not grey.
    """

    small: np.ndarray
    digest: bytes
    brightness: float
    contrast: float
    sharpness: float
    height: int
    width: int
    is_colour: bool


@dataclass(frozen=True)
class Evidence:
    """Sketches of labelled images, one row each; the columns are those of `Sketch`.

    Attributes:
        names: where each image came from.
        labels: int64 `(n,)`, indices into `class_names`.
        groups: int64 `(n,)`; images of one photograph share a group.
        class_names: names of the labels.
        small: uint8 `(n, 64, 64)`.
        digests: `n` hashes.
    """

    names: tuple[str, ...]
    labels: np.ndarray
    groups: np.ndarray
    class_names: tuple[str, ...]
    small: np.ndarray
    digests: tuple[bytes, ...]
    brightness: np.ndarray
    contrast: np.ndarray
    sharpness: np.ndarray
    heights: np.ndarray
    widths: np.ndarray
    is_colour: np.ndarray

    def __len__(self) -> int:
        return len(self.names)

    def tiny(self, index: np.ndarray | None = None) -> np.ndarray:
        """Return grey copies of 16 x 16 as float32 `(n, 16, 16)`, of all images or those given."""
        cell = N_SMALL // N_TINY
        small = self.small if index is None else self.small[index]
        cells = small.reshape(-1, N_TINY, cell, N_TINY, cell)
        return cells.mean((2, 4), dtype=np.float32)


def sketch(image: np.ndarray) -> Sketch:
    """Return what is kept of a uint8 image `(h, w)` or `(h, w, 3)`."""
    height, width = image.shape[:2]
    digest = hashlib.sha256(repr(image.shape).encode() + image.tobytes()).digest()
    seen = resize(image, LARGEST) if max(height, width) > LARGEST else image
    grey = as_channels(seen, 1)
    return Sketch(
        resize(grey, N_SMALL),
        digest,
        float(grey.mean()),
        float(grey.std()),
        sharpness_of(grey),
        height,
        width,
        image.ndim == 3,
    )


def sharpness_of(grey: np.ndarray) -> float:
    """Return mean step to the next pixel over mean step to the next but one.

    It is 1 for pixels that know nothing of each other and 1/2 for a perfectly smooth image;
    brightness and contrast cancel out. A flat image counts as smooth.
    """
    wide = grey.astype(np.int16)
    near = far = 0.0
    for axis in (0, 1):
        steps = np.diff(wide, axis=axis)
        first, last = (slice(None, -1), slice(1, None))
        pairs = (
            steps[first] + steps[last] if axis == 0 else steps[:, first] + steps[:, last]
        )  # two steps in a row make one of twice the length
        near += float(np.abs(steps).mean()) if steps.size else 0.0
        far += float(np.abs(pairs).mean()) if pairs.size else 0.0
    return near / far if far else 0.5


def gather(
    sketches: Sequence[Sketch],
    *,
    names: Sequence[str],
    labels: np.ndarray,
    groups: np.ndarray,
    class_names: Sequence[str],
) -> Evidence:
    """Return sketches as columns."""
    small, digests, *numbers = zip(*sketches, strict=True)
    return Evidence(
        tuple(names),
        labels,
        groups,
        tuple(class_names),
        np.stack(small),
        digests,
        *(np.array(column) for column in numbers),
    )


def evidence_of(images: ImageSet) -> Evidence:
    """Return the evidence of images that are already loaded.

    A crop of a surface study counts with the size it was cut at, which its name tells.
    """
    evidence = gather(
        [sketch(image) for image in images.images],
        names=images.names,
        labels=images.labels,
        groups=images.groups,
        class_names=images.class_names,
    )
    sides = [name.rpartition(CUT_MARK)[2].rpartition(",")[2] for name in images.names]
    is_cut = [
        CUT_MARK in name and side.isdigit() for name, side in zip(images.names, sides, strict=True)
    ]
    cut = np.array([int(side) if known else 0 for side, known in zip(sides, is_cut, strict=True)])
    return replace(
        evidence,
        heights=np.where(cut > 0, cut, evidence.heights),
        widths=np.where(cut > 0, cut, evidence.widths),
    )
