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
from qgraft.errors import ConfigError
from qgraft.studies.hybrid import Hybrid, new_graft
from qgraft.studies.run import Run
from qgraft.studies.surface import SEEN_NOTES, surface_notes
from qgraft.studies.two_stage import Plan, run_two_stage
from qgraft.trunks.registry import TRUNKS, build_trunk, require_weights
from qgraft.trunks.surface_cnn import INPUT_SIZE

FOLDER_NOTES = (
    "All scores are on an outer hold-out that no stage, fold or choice has seen; images that "
    "share a group stay together.",
    "Without a group column every image counts as its own photograph: crops or video frames of "
    "one part on both sides of the hold-out would make the scores too good.",
)


FOREIGN_TRUNK_NOTE = (
    "The trunk was trained elsewhere. No head has seen the hold-out, but whether the trunk has is "
    "not known here: scores are honest only if it was trained on other photographs."
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
    _check_graft(config)
    layout = detect_layout(root)
    _check_options(config, layout)
    if layout == "voc":
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
        if loaded.split is not None:
            raise ConfigError(
                "the images come with splits of their own, which protocol 'paper' would ignore; "
                "use --protocol clean"
            )
        splits = paper_splits(loaded.images, n_folds=folds, seed=seed)
        return SplitImages(loaded.images, splits, SEEN_NOTES)
    splits = clean_splits(loaded.images, n_folds=folds, seed=seed, assigned=loaded.split)
    return SplitImages(loaded.images, splits, FOLDER_NOTES)


def _check_graft(config: FitConfig) -> None:
    """Graft onto an untrained network, so that a wrong option is found before hours of training.

    Raises:
        QgraftError: the head or the cut cannot be made, or pretrained weights are missing.
    """
    if not config.trunk_weights:
        require_weights([config.trunk], config.weights)
    hybrid = Hybrid(config.head, config.replace_last, config.head)
    new_graft(build_trunk(config.trunk), config.trunk, hybrid, config, seed=0)


def _check_options(config: FitConfig, layout: str) -> None:
    """Refuse options that this layout would ignore.

    Raises:
        ConfigError: such an option is set.
    """
    if layout == "voc" and config.colour:
        raise ConfigError("--colour does not go with boxes: defect photographs are read as grey")
    if layout != "voc" and (config.classes or config.per_class):
        raise ConfigError("--classes and --per-class go with images that have boxes only")


def run_fit(run: Run, data: SplitImages, config: FitConfig) -> dict[str, Any]:
    """Fit one grafted model to images and return the content of `result.json`."""
    hybrid = Hybrid(config.head, config.replace_last, config.head)
    weights = Path(config.trunk_weights) if config.trunk_weights else None
    plan = Plan(TRUNKS[config.trunk].title, config.trunk, (hybrid,), weights)
    notes = (FOREIGN_TRUNK_NOTE, *data.notes[1:]) if weights else data.notes
    return run_two_stage(run, data.images, data.splits, [plan], config, notes=notes)
