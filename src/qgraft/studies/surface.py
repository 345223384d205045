"""Quantum transfer learning for surface anomaly detection (arXiv 2409.00228).

Train CM-1, CM-2 and CM-3 on normal and anomalous steel images, cut off their last dense layers,
put a five-qubit circuit there and train only that, in six folds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from qgraft.config import SurfaceConfig
from qgraft.data.imageset import Photographs
from qgraft.data.surface import surface_images, surface_splits
from qgraft.studies.hybrid import Hybrid
from qgraft.studies.published import published_facts, published_variants
from qgraft.studies.run import Run
from qgraft.studies.two_stage import Plan, run_two_stage
from qgraft.trunks.surface_cnn import SURFACE_CNNS, published_name

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


def surface_notes(protocol: str) -> tuple[str, ...]:
    """Return what a reader must know about the scores of a protocol."""
    return PAPER_NOTES if protocol == "paper" else CLEAN_NOTES


def hybrids_of(trunk: str, variants: str) -> tuple[Hybrid, ...]:
    """Return the three published grafts of a network, or one for every k with `"all"`."""
    published = published_variants(published_name(trunk))
    if variants == "published":
        return tuple(Hybrid(variant, k) for variant, k in published.items())
    names = {k: variant for variant, k in published.items()}
    every_k = range(1, SURFACE_CNNS[trunk].n_dense + 1)
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
    images = surface_images(
        photographs, protocol=config.protocol, per_class=config.per_class, seed=config.seed
    )
    splits = surface_splits(
        photographs, images, protocol=config.protocol, n_folds=config.folds, seed=config.seed
    )
    plans = [
        Plan(published_name(trunk), trunk, hybrids_of(trunk, config.variants))
        for trunk in config.models
    ]
    return run_two_stage(
        run,
        images,
        splits,
        plans,
        config,
        notes=surface_notes(config.protocol) if notes is None else notes,
        facts=facts if facts is not None else _facts_of(config.protocol),
    )


def _facts_of(protocol: str) -> Callable[[str, str], dict[str, Any]]:
    """Return the published columns that apply: no score was published without the leaks."""
    if protocol == "paper":
        return published_facts
    return lambda model, variant: {**published_facts(model, variant), "published_f1": None}
