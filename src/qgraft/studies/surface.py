"""Quantum transfer learning for surface anomaly detection (arXiv 2409.00228).

Train CM-1, CM-2 and CM-3 on normal and anomalous steel images, cut off their last dense layers,
put a five-qubit circuit there and train only that, in six folds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from qgraft.config import SurfaceConfig
from qgraft.data.imageset import ImageSet, Photographs
from qgraft.data.neu_det import defect_types, load_photographs
from qgraft.data.splits import Splits, clean_splits
from qgraft.data.surface import surface_images, surface_splits, type_images
from qgraft.errors import ConfigError
from qgraft.studies.hybrid import Hybrid
from qgraft.studies.published import published_facts, published_variants
from qgraft.studies.run import Run
from qgraft.studies.two_stage import Plan, run_two_stage
from qgraft.trunks.registry import TRUNKS, require_weights

SEEN_NOTES = (
    "Protocol 'paper', exactly as published: read the scores with the leaks below in mind.",
    "The trunk was trained on 80 % of the images that the folds of the hybrids are scored on; "
    "classical scores are on its 20 % test part, so classical and hybrid are not comparable.",
    "The best initialisation of a classical network is chosen on the test part it is scored on.",
)
PAPER_NOTES = (
    *SEEN_NOTES,
    "Normal crops come from the same photographs as the anomalous images, on both sides of "
    "every split.",
    "Normal images are magnified crops, anomalous ones are not: blur alone separates them.",
)
CLEAN_NOTES = (
    "Protocol 'clean': all scores are on an outer hold-out of whole photographs that no stage, "
    "fold or choice has seen.",
    "Scores on the folds themselves are optimistic: the trunk learned from most fold images.",
    "F1 is the mean of the folds' heads; ROC curve, confusion matrix and mistakes are those of the "
    "final head, trained on all folds.",
    "A defect may be only partly inside its crop, and a crop free of boxes is not proven to be "
    "free of defects.",
)
TYPE_NOTES = (
    "Task 'types': the class of a crop is the type of its box. F1, precision and recall are "
    "unweighted means over the types.",
    *CLEAN_NOTES[:3],
    "All crops have the same side, so the size of a defect tells nothing; brightness, which "
    "differs from type to type, does.",
)
PRETRAINED_NOTE = (
    "MobileNetV2 and ResNet18 come with weights learned on everyday photographs (ImageNet); what "
    "is trained on top, or tuned, sees the training part only. Their features are averaged over "
    "the eight orientations of an image."
)


def surface_notes(protocol: str) -> tuple[str, ...]:
    """Return what a reader must know about the scores of a protocol."""
    return PAPER_NOTES if protocol == "paper" else CLEAN_NOTES


def read_photographs(config: SurfaceConfig) -> Photographs:
    """Read the photographs of a study after checking what can be known without them.

    Raises:
        ConfigError: a task that the protocol does not have.
        WeightsError: a pretrained network's weights are missing.
        DataError: the photographs cannot be used.
    """
    if config.task == "types" and config.protocol != "clean":
        raise ConfigError("task 'types' was not published: it has protocol 'clean' only")
    require_weights(config.models, config.weights)
    root, classes = Path(config.data), config.classes
    if config.task == "types" and classes is None:
        classes = defect_types(root)
    return load_photographs(root, classes=classes, on_error=config.on_error)


def hybrids_of(trunk: str, variants: str) -> tuple[Hybrid, ...]:
    """Return the published grafts of a network, or one for every k with `"all"`.

    A network that was not in the study is cut at every dense layer.
    """
    published = published_variants(TRUNKS[trunk].title)
    if published and variants == "published":
        return tuple(Hybrid(variant, k) for variant, k in published.items())
    names = {k: variant for variant, k in published.items()}
    every_k = range(1, TRUNKS[trunk].n_dense + 1)
    return tuple(Hybrid(names.get(k, f"last-{k}"), k) for k in every_k)


def run_surface(
    run: Run,
    photographs: Photographs,
    config: SurfaceConfig,
    *,
    notes: Sequence[str] | None = None,
    facts: Callable[[str, str], dict[str, Any]] | None = None,
) -> dict[str, Any]:
    """Run the study on photographs with boxes and return the content of `result.json`."""
    images, splits = _images_of(photographs, config)
    plans = [
        Plan(TRUNKS[trunk].title, trunk, hybrids_of(trunk, config.variants))
        for trunk in config.models
    ]
    return run_two_stage(
        run,
        images,
        splits,
        plans,
        config,
        notes=_notes_of(config) if notes is None else notes,
        facts=facts if facts is not None else _facts_of(config.protocol),
    )


def _images_of(photographs: Photographs, config: SurfaceConfig) -> tuple[ImageSet, Splits]:
    folds, seed = config.folds, config.seed
    if config.task == "types":
        images = type_images(photographs, seed=seed)
        return images, clean_splits(images, n_folds=folds, seed=seed)
    protocol = config.protocol
    images = surface_images(photographs, protocol=protocol, per_class=config.per_class, seed=seed)
    return images, surface_splits(photographs, images, protocol=protocol, n_folds=folds, seed=seed)


def _notes_of(config: SurfaceConfig) -> tuple[str, ...]:
    notes = TYPE_NOTES if config.task == "types" else surface_notes(config.protocol)
    is_pretrained = any(TRUNKS[name].weights for name in config.models)
    return (*notes, PRETRAINED_NOTE) if is_pretrained else notes


def _facts_of(protocol: str) -> Callable[[str, str], dict[str, Any]]:
    """Return the published columns that apply: no score was published without the leaks."""
    if protocol == "paper":
        return published_facts
    return lambda model, variant: {**published_facts(model, variant), "published_f1": None}
