"""Who may see which image: outer hold-out, the part that trains a trunk, and the folds.

`paper` follows arXiv 2409.00228: one random 20 % test part for the classical stage and
stratified folds over *all* images for the hybrid stage, so most fold images were seen by the
trunk. `clean` keeps every photograph together, sets a hold-out aside that nothing ever sees,
and folds the rest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from qgraft.data.imageset import ImageSet
from qgraft.errors import DataError
from qgraft.seeds import derive, numpy_rng

Protocol = Literal["paper", "clean"]
HOLDOUT_SHARE = 0.2


@dataclass(frozen=True)
class Splits:
    """Index arrays into one `ImageSet`.

    Attributes:
        train: images the classical stage learns from.
        select: images that choose among initialisations (`paper`: the test part itself).
        holdout: images no stage, fold, epoch choice or threshold sees; empty under `paper`.
        folds: validation part of each fold; a head learns from the other folds.
    """

    train: np.ndarray
    select: np.ndarray
    holdout: np.ndarray
    folds: tuple[np.ndarray, ...]

    def __post_init__(self) -> None:
        parts = [self.train, self.select, self.holdout]
        if sum(map(len, parts)) != len(np.unique(np.concatenate(parts))):
            raise DataError("training, selection and hold-out part must not share an image")

    @property
    def development(self) -> np.ndarray:
        """Return all images outside the hold-out that take part in the folds, sorted."""
        return np.sort(np.concatenate(self.folds))

    def fold_train(self, fold: int) -> np.ndarray:
        """Return the images a head of this fold learns from, sorted."""
        return np.sort(np.concatenate([f for k, f in enumerate(self.folds) if k != fold]))

    def to_json(self) -> dict[str, Any]:
        """Return plain lists."""
        return {
            "train": self.train.tolist(),
            "select": self.select.tolist(),
            "holdout": self.holdout.tolist(),
            "folds": [fold.tolist() for fold in self.folds],
        }


def paper_splits(images: ImageSet, *, n_folds: int, seed: int) -> Splits:
    """Split as published: a random test part of floor(20 %), folds over all images.

    441 of 2,206 images reproduce the published pair accuracy 97.28 %, F1 97.32 %.
    """
    from sklearn.model_selection import StratifiedKFold

    _require_members(images, np.arange(len(images)), n_folds, f"{n_folds} folds")
    order = numpy_rng(seed, "test split").permutation(len(images))
    n_test = int(HOLDOUT_SHARE * len(images))
    folds = StratifiedKFold(n_folds, shuffle=True, random_state=_state(seed, "folds"))
    return Splits(
        train=np.sort(order[n_test:]),
        select=np.sort(order[:n_test]),
        holdout=np.empty(0, dtype=np.int64),
        folds=tuple(test for _, test in folds.split(images.labels, images.labels)),
    )


def clean_splits(
    images: ImageSet,
    *,
    n_folds: int,
    seed: int,
    strata: np.ndarray | None = None,
    assigned: Sequence[str] | None = None,
) -> Splits:
    """Split by photograph: an outer hold-out, then grouped folds and a selection part inside.

    Args:
        images: the images; those sharing a group are never parted.
        n_folds: number of folds inside the development part.
        seed: decides every draw.
        strata: int64 `(n,)` classes to balance over the parts; the labels when not given.
        assigned: `"train"`, `"val"`, `"test"` or `""` for each image, from a manifest; test
            images form the hold-out and validation images the selection part.

    Raises:
        DataError: too few groups of some class, or an assignment that parts a group.
    """
    strata = images.labels if strata is None else strata
    everyone = np.arange(len(images))
    strata = _usable(strata, images)
    words = np.asarray(assigned if assigned is not None else [""] * len(images))
    if assigned is not None:
        _require_whole_groups(images, words)
    given_test, given_select = everyone[words == "test"], everyone[words == "val"]
    for word, given in (("test", given_test), ("val", given_select)):
        if len(given):
            _require_members(images, given, 1, f"split {word!r}")
    if len(given_test):
        inside, holdout = np.setdiff1d(everyone, given_test), given_test
    else:
        free = np.setdiff1d(everyone, given_select)
        free, holdout = _part(images, strata, free, 5, seed, "hold-out")
        inside = np.union1d(free, given_select)
    _require_members(images, inside, n_folds, f"{n_folds} folds")
    folds = _grouped_folds(images, strata, inside, n_folds, seed, "folds")
    if len(given_select):
        train, select = np.setdiff1d(inside, given_select), given_select
    else:
        train, select = _part(images, strata, inside, 5, seed, "selection")
    return Splits(train=train, select=select, holdout=holdout, folds=tuple(folds))


def _part(
    images: ImageSet, strata: np.ndarray, members: np.ndarray, n: int, seed: int, purpose: str
) -> tuple[np.ndarray, np.ndarray]:
    """Return the members without, and with only, one grouped and stratified n-th part."""
    _require_members(images, members, n, f"the {purpose} part, one {n}th of the photographs")
    chosen = _grouped_folds(images, strata, members, n, seed, purpose)[0]
    return np.setdiff1d(members, chosen), chosen


def _grouped_folds(
    images: ImageSet, strata: np.ndarray, members: np.ndarray, n: int, seed: int, purpose: str
) -> list[np.ndarray]:
    from sklearn.model_selection import StratifiedGroupKFold

    splitter = StratifiedGroupKFold(n, shuffle=True, random_state=_state(seed, purpose))
    parts = splitter.split(members, strata[members], images.groups[members])
    return [np.sort(members[test]) for _, test in parts]


def _state(seed: int, purpose: str) -> int:
    return derive(seed, purpose) % 2**32


def _usable(strata: np.ndarray, images: ImageSet) -> np.ndarray:
    """Return strata every part can have its share of, or else the labels."""
    rarest = min(len(np.unique(images.groups[strata == stratum])) for stratum in np.unique(strata))
    return strata if rarest >= 5 else images.labels


def _require_members(images: ImageSet, members: np.ndarray, n: int, purpose: str) -> None:
    for label, name in enumerate(images.class_names):
        of_class = members[images.labels[members] == label]
        n_groups = len(np.unique(images.groups[of_class]))
        if n_groups < n:
            raise DataError(
                f"class {name!r} has {n_groups} photographs where {purpose} needs at least {n}; "
                "add images, or ask for fewer folds with --folds"
            )


def _require_whole_groups(images: ImageSet, words: np.ndarray) -> None:
    for word in ("test", "val"):
        inside = np.unique(images.groups[words == word])
        torn = inside[np.isin(inside, images.groups[words != word])]
        if len(torn):
            example = images.names[int(np.flatnonzero(images.groups == torn[0])[0])]
            raise DataError(
                f"{len(torn)} groups have images both in split {word!r} and outside it, "
                f"for example the group of {example}; give a group one split"
            )
