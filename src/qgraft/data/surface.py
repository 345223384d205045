"""Steel photographs with defect boxes -> balanced normal / anomalous images, two protocols.

`paper` (arXiv 2409.00228, section III): an anomalous image is the photograph itself, a normal
one a box-free crop magnified to the same size. Magnification blurs, so blur alone separates the
classes. `clean`: every photograph gives one normal crop and one crop around a defect, both of
the same side and magnified alike; two photographs with equal pixels count as one. `type_images`
asks another question of the same photographs: which type a defect is of.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from qgraft.data.images import resize
from qgraft.data.imageset import ANOMALOUS, NORMAL, ImageSet, Photographs
from qgraft.data.patches import Square, crop_around, free_squares
from qgraft.data.splits import Protocol, Splits, clean_splits, paper_splits
from qgraft.errors import DataError
from qgraft.seeds import numpy_rng

PUBLISHED_PER_CLASS = 1103
SIZE = 200
TYPE_SIDE = 96  # one side for all types: how large a defect is must not tell which it is
CUT_MARK = "#"  # "scratches_7#12,40,92" is the 92-pixel square at x 12, y 40 of scratches_7


def surface_images(
    photographs: Photographs, *, protocol: Protocol, per_class: int, seed: int, size: int = SIZE
) -> ImageSet:
    """Make `per_class` normal and `per_class` anomalous images of `size` pixels a side.

    Raises:
        DataError: the photographs do not hold that many box-free squares.
    """
    if not any(photographs.boxes):
        raise DataError("no photograph has a box, so nothing is anomalous; add annotations")
    pool = _normal_pool(photographs, per_class)
    if not pool:
        raise DataError(
            "no photograph has a box-free square of at least 32 pixels, so nothing is normal; "
            "leave out classes whose boxes cover everything with --classes"
        )
    if len(pool) < per_class:
        raise DataError(
            f"{per_class} images per class were asked for, but the photographs hold only "
            f"{len(pool)} box-free squares of at least 32 pixels; lower --per-class"
        )
    rng = numpy_rng(seed, f"surface {protocol}")
    chosen = [pool[i] for i in np.sort(rng.permutation(len(pool))[:per_class])]
    if protocol == "paper":
        anomalous = _whole_photographs(photographs, per_class, rng)
    else:
        anomalous = [_defect_square(photographs, i, square.side, rng) for i, square in chosen]
    cuts = [*chosen, *anomalous]
    groups = _photograph_groups(photographs.images)
    return ImageSet(
        images=np.stack([_magnified(photographs.images[i], square, size) for i, square in cuts]),
        labels=np.repeat(np.array([NORMAL, ANOMALOUS], dtype=np.int64), per_class),
        groups=groups[[i for i, _ in cuts]],
        names=tuple(_cut_name(photographs.names[i], square) for i, square in cuts),
        findings=photographs.findings,
    )


def type_images(photographs: Photographs, *, seed: int, size: int = SIZE) -> ImageSet:
    """Cut one square around the largest box of every type in every photograph.

    The class of a crop is the type its box was given. Boxes of types that no photograph is named
    after are left out.

    Raises:
        DataError: fewer than two types.
    """
    types = sorted(set(photographs.defects))
    if len(types) < 2:
        raise DataError(f"telling types apart needs at least 2 of them, got {', '.join(types)}")
    rng = numpy_rng(seed, "surface types")
    cuts: list[tuple[int, int, Square]] = []
    for i, (image, boxes) in enumerate(zip(photographs.images, photographs.boxes, strict=True)):
        shape = image.shape[0], image.shape[1]
        for label, name in enumerate(types):
            of_type = [box for box in boxes if box.label == name]
            if of_type:
                largest = max(of_type, key=lambda box: (box.x1 - box.x0) * (box.y1 - box.y0))
                square = crop_around(largest, min(TYPE_SIDE, *shape), shape, rng)
                cuts.append((i, label, square))
    groups = _photograph_groups(photographs.images)
    return ImageSet(
        images=np.stack([_magnified(photographs.images[i], square, size) for i, _, square in cuts]),
        labels=np.array([label for _, label, _ in cuts], dtype=np.int64),
        groups=groups[[i for i, _, _ in cuts]],
        names=tuple(_cut_name(photographs.names[i], square) for i, _, square in cuts),
        class_names=tuple(types),
        findings=photographs.findings,
    )


def most_per_class(photographs: Photographs) -> int:
    """Return how many images per class can be made with one of each from a photograph."""
    return sum(
        bool(free_squares((image.shape[0], image.shape[1]), boxes, most=1))
        for image, boxes in zip(photographs.images, photographs.boxes, strict=True)
    )


def photograph_of(name: str) -> str:
    """Return the photograph that an image of `surface_images` was cut from."""
    return name.rpartition(CUT_MARK)[0] or name


def _magnified(photograph: np.ndarray, square: Square | None, size: int) -> np.ndarray:
    return resize(square.cut(photograph) if square else photograph, size)


def _cut_name(photograph: str, square: Square | None) -> str:
    return f"{photograph}{CUT_MARK}{square.x},{square.y},{square.side}" if square else photograph


def surface_splits(
    photographs: Photographs, images: ImageSet, *, protocol: Protocol, n_folds: int, seed: int
) -> Splits:
    """Split the images of `surface_images`; `clean` balances the defect classes as well."""
    if protocol == "paper":
        return paper_splits(images, n_folds=n_folds, seed=seed)
    names = sorted(set(photographs.defects))
    defect_of = dict(zip(photographs.names, photographs.defects, strict=True))
    strata = [names.index(defect_of[photograph_of(name)]) for name in images.names]
    return clean_splits(images, n_folds=n_folds, seed=seed, strata=np.array(strata))


def _normal_pool(photographs: Photographs, wanted: int) -> list[tuple[int, Square]]:
    """Return box-free squares: the largest of every photograph, then second largest, ..."""
    squares = [
        free_squares(image.shape[:2], boxes)
        for image, boxes in zip(photographs.images, photographs.boxes, strict=True)
    ]
    pool: list[tuple[int, Square]] = []
    for rank in range(max(map(len, squares), default=0)):
        pool += [(i, found[rank]) for i, found in enumerate(squares) if len(found) > rank]
        if len(pool) >= wanted:
            break
    return pool


def _whole_photographs(
    photographs: Photographs, per_class: int, rng: np.random.Generator
) -> list[tuple[int, None]]:
    marked = np.flatnonzero([bool(boxes) for boxes in photographs.boxes])
    if per_class > len(marked):
        raise DataError(
            f"{per_class} anomalous images were asked for, but only {len(marked)} photographs "
            "have a box; lower --per-class"
        )
    chosen = marked[np.sort(rng.permutation(len(marked))[:per_class])]
    return [(int(i), None) for i in chosen]


def _defect_square(
    photographs: Photographs, index: int, side: int, rng: np.random.Generator
) -> tuple[int, Square]:
    if not photographs.boxes[index]:  # a photograph without a defect borrows another's
        marked = [i for i, boxes in enumerate(photographs.boxes) if boxes]
        index = marked[int(rng.integers(len(marked)))]
    boxes = photographs.boxes[index]
    box = boxes[int(rng.integers(len(boxes)))]
    height, width = photographs.images[index].shape
    side = min(side, height, width)
    return index, crop_around(box, side, (height, width), rng)


def _photograph_groups(images: Sequence[np.ndarray]) -> np.ndarray:
    """Number the photographs; those with the same pixels get the same number."""
    seen: dict[tuple[tuple[int, ...], bytes], int] = {}
    keys = [(image.shape, image.tobytes()) for image in images]
    return np.array([seen.setdefault(key, len(seen)) for key in keys], dtype=np.int64)
