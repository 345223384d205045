"""Stage 2: graft a head onto a frozen network and train it in folds on cached features."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import nn

from qgraft.config import TrainingConfig
from qgraft.data.imageset import ImageSet
from qgraft.data.splits import Splits
from qgraft.grafting import GraftedModel, ParameterReport, graft
from qgraft.seeds import derive, torch_stream
from qgraft.studies.classical import image_tensor, probabilities_of
from qgraft.studies.run import Run
from qgraft.training.loop import EpochRecord, Recipe, Samples, train
from qgraft.trunks.features import cached_features

# Cost of one head-training sample, in training images of CM-2, to weigh the progress bar.
SAMPLE_COST = 0.01
FINAL = "final"


class Hybrid(NamedTuple):
    """One graft: its name in the tables, the layers it replaces and the head put there."""

    variant: str
    replace_last: int | Literal["all"]
    head: str = "dressed"


@dataclass(frozen=True)
class Grafted:
    """A hybrid after its folds.

    Attributes:
        fold_probabilities: class probabilities of each fold's validation images.
        holdout_probabilities: class probabilities of the hold-out by each fold's head.
        final_probabilities: of the hold-out by the head trained on all folds; None without one.
        final: the model with the head trained on all folds.
        curves: epoch records of each fold.
        report: parameter counts.
        n_features: width of the features the head reads.
    """

    fold_probabilities: list[np.ndarray]
    holdout_probabilities: list[np.ndarray]
    final_probabilities: np.ndarray | None
    final: GraftedModel
    curves: list[list[EpochRecord]]
    report: ParameterReport
    n_features: int


def head_options(head: str, config: TrainingConfig) -> dict[str, Any]:
    """Return what a head is built with; `paper` takes the published reading.

    Published: tanh unscaled and ReLU after the circuit (arXiv 2409.00228, Table II). Otherwise
    angles up to pi/2 as in arXiv 1912.08278 and no ReLU, which would discard negative <Z>.
    """
    if head != "dressed":
        return {}
    published = config.protocol == "paper"
    return {
        "n_qubits": config.n_qubits,
        "depth": config.depth,
        "scale": 1.0 if published else math.pi / 2,
        "relu": published,
    }


def hybrid_work(splits: Splits, config: TrainingConfig) -> float:
    """Return the training samples of all folds and the final head, in images of CM-2."""
    parts = config.folds + 1  # and the final head
    return SAMPLE_COST * config.head_epochs * len(splits.development) * parts


def train_hybrid(
    run: Run,
    model: nn.Module,
    name: str,
    hybrid: Hybrid,
    images: ImageSet,
    splits: Splits,
    config: TrainingConfig,
) -> Grafted:
    """Train one head per fold, and one on all folds for later use.

    Only heads are trained: the trunk is frozen, in eval mode, and runs once over all images.
    """
    with run.timed(f"{name}/features"):
        trunk = new_graft(model, name, hybrid, config, seed=0)
        features = cached_features(trunk.trunk, image_tensor(images), images.digest())
    labels = torch.from_numpy(images.labels)
    recipe = Recipe(config.head_epochs, config.head_learning_rate, config.batch_size)

    def samples(index: np.ndarray) -> Samples:
        return Samples(features[index], labels[index])

    parts: list[tuple[str, Samples, Samples | None]] = [
        (str(k), samples(splits.fold_train(k)), samples(fold))
        for k, fold in enumerate(splits.folds)
    ]
    parts.append((FINAL, samples(splits.development), None))
    grafts, curves = [], []
    for number, (part, training, validation) in enumerate(parts):
        grafted = new_graft(
            model, name, hybrid, config, seed=derive(config.seed, hybrid.variant, number)
        )
        note = f"{name} {hybrid.variant}, " + ("final head" if part == FINAL else f"fold {part}")
        work = SAMPLE_COST * len(splits.development)
        with run.timed(f"{name}/{hybrid.variant}"):
            curves.append(
                train(
                    grafted.head,
                    training,
                    validation,
                    recipe,
                    seed=derive(config.seed, f"train {name} {hybrid.variant}", number),
                    checkpoint=head_file(run.folder, name, hybrid.variant, part),
                    on_epoch=run.each_epoch(work, note),
                )
            )
        grafts.append(grafted)
    final = grafts.pop()
    held = features[splits.holdout]
    return Grafted(
        fold_probabilities=[
            probabilities_of(grafted.head, features[fold])
            for grafted, fold in zip(grafts, splits.folds, strict=True)
        ],
        holdout_probabilities=[probabilities_of(g.head, held) for g in grafts] if len(held) else [],
        final_probabilities=probabilities_of(final.head, held) if len(held) else None,
        final=final,
        curves=curves[:-1],
        report=final.parameter_report(),
        n_features=features.shape[1],
    )


def new_graft(
    model: nn.Module, name: str, hybrid: Hybrid, config: TrainingConfig, *, seed: int
) -> GraftedModel:
    """Graft a head with fresh weights."""
    with torch_stream(seed, f"head {name} {hybrid.variant}"):
        return graft(
            model,
            replace_last=hybrid.replace_last,
            head=hybrid.head,
            **head_options(hybrid.head, config),
        )


def head_file(folder: Path, name: str, variant: str, part: str) -> Path:
    """Return where the head of a fold, or the final head, keeps its weights."""
    return folder / "heads" / name / variant / f"{part}.safetensors"
