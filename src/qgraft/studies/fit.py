"""Anyone's images: train or load a trunk, graft a head, score it honestly, keep it for use."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from qgraft.config import FitConfig
from qgraft.data.folders import detect_layout, load_images
from qgraft.data.imageset import ImageSet
from qgraft.data.neu_det import load_photographs
from qgraft.data.splits import Splits, clean_splits, paper_splits
from qgraft.data.surface import most_per_class, surface_images, surface_splits
from qgraft.studies.hybrid import Hybrid
from qgraft.studies.run import Run
from qgraft.studies.surface import surface_notes
from qgraft.studies.two_stage import Plan, run_two_stage
from qgraft.trunks.surface_cnn import INPUT_SIZE, published_name

FOLDER_NOTES = (
    "All scores are on an outer hold-out that no stage, fold or choice has seen; images that "
    "share a group stay together.",
    "Without a group column every image counts as its own photograph: crops or video frames of "
    "one part on both sides of the hold-out would make the scores too good.",
)


class SplitImages(NamedTuple):
    """Images, who may see which of them, and what a reader of the scores must know."""

    images: ImageSet
    splits: Splits
    notes: tuple[str, ...]


def read_images(config: FitConfig) -> SplitImages:
    """Read the images of `config.data`, whatever its layout, and split them.

    Raises:
        DataError: nothing usable is there, or it cannot be split that way.
    """
    root, folds, seed = Path(config.data), config.folds, config.seed
    if detect_layout(root) == "voc":
        photographs = load_photographs(root, classes=config.classes, on_error=config.on_error)
        per_class = config.per_class or most_per_class(photographs)
        images = surface_images(
            photographs, protocol=config.protocol, per_class=per_class, seed=seed
        )
        splits = surface_splits(
            photographs, images, protocol=config.protocol, n_folds=folds, seed=seed
        )
        return SplitImages(images, splits, surface_notes(config.protocol))
    channels = 3 if config.colour else 1
    loaded = load_images(root, size=INPUT_SIZE, channels=channels, on_error=config.on_error)
    if config.protocol == "paper":
        splits = paper_splits(loaded.images, n_folds=folds, seed=seed)
        return SplitImages(loaded.images, splits, surface_notes("paper")[:3])
    splits = clean_splits(loaded.images, n_folds=folds, seed=seed, assigned=loaded.split)
    return SplitImages(loaded.images, splits, FOLDER_NOTES)


def run_fit(run: Run, data: SplitImages, config: FitConfig) -> dict[str, Any]:
    """Fit one grafted model to images and return the content of `result.json`."""
    hybrid = Hybrid(config.head, config.replace_last, config.head)
    weights = Path(config.trunk_weights) if config.trunk_weights else None
    plan = Plan(published_name(config.trunk), config.trunk, (hybrid,), weights)
    return run_two_stage(run, data.images, data.splits, [plan], config, notes=data.notes)
