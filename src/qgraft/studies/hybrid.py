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
from qgraft.heads.registry import takes_dressed_options
from qgraft.seeds import derive, torch_stream
from qgraft.studies.classical import image_tensor, probabilities_of
from qgraft.studies.run import Run
from qgraft.training.head_trainer import HeadTask, can_train, train_heads
from qgraft.training.kept import EpochRecord, finished_epochs, load_trained, store_trained
from qgraft.training.loop import Recipe, Samples, train
from qgraft.trunks.features import cached_features

# Cost of one head-training sample, in training images of CM-2, to weigh the progress bar.
SAMPLE_COST = 0.01
FINAL = "final"


class Hybrid(NamedTuple):
    """One graft: its name in the tables, the layers it replaces and the head put there."""

    variant: str
    replace_last: int | Literal["all"]
    head: str = "dressed"


class Part(NamedTuple):
    """What one head of a hybrid learns from and is scored on, as indices of samples."""

    name: str
    training: np.ndarray
    validation: np.ndarray | None

    @property
    def note(self) -> str:
        """Return the part's name in the progress line."""
        return "final head" if self.validation is None else f"fold {int(self.name) + 1}"


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
        samples: the features and labels of all images.
    """

    fold_probabilities: list[np.ndarray]
    holdout_probabilities: list[np.ndarray]
    final_probabilities: np.ndarray | None
    final: GraftedModel
    curves: list[list[EpochRecord]]
    report: ParameterReport
    n_features: int
    samples: Samples


def head_options(head: str, config: TrainingConfig) -> dict[str, Any]:
    """Return what a head is built with; `paper` takes the published reading.

    Published: tanh unscaled and ReLU after the circuit (arXiv 2409.00228, Table II). Otherwise
    angles up to pi/2 as in arXiv 1912.08278 and no ReLU, which would discard negative <Z>.
    """
    if not takes_dressed_options(head):
        return {}
    published = config.protocol == "paper"
    return {
        "n_qubits": config.n_qubits,
        "depth": config.depth,
        "scale": 1.0 if published else math.pi / 2,
        "relu": published,
    }


def head_seed(config: TrainingConfig, hybrid: Hybrid, part: int, *repeat: int) -> int:
    """Return what the initial weights of a head are drawn from; repeats are further draws."""
    return derive(config.seed, hybrid.variant, part, *repeat)


def order_seed(config: TrainingConfig, name: str, hybrid: Hybrid, part: int, *repeat: int) -> int:
    """Return what the order of samples is drawn from in the training of a head."""
    return derive(config.seed, f"train {name} {hybrid.variant}", part, *repeat)


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
    samples = hybrid_samples(run, model, name, hybrid, images, config)
    grafts, curves = train_grafts(run, model, name, hybrid, samples, splits, config)
    features = samples.inputs
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
        samples=samples,
    )


def hybrid_samples(
    run: Run,
    model: nn.Module,
    name: str,
    hybrid: Hybrid,
    images: ImageSet,
    config: TrainingConfig,
) -> Samples:
    """Return what the heads of a hybrid read: the features of all images, and their labels."""
    with run.timed(f"{name}/features"):
        trunk = new_graft(model, name, hybrid, config, seed=0)
        features = cached_features(trunk.trunk, image_tensor(images), images.digest())
    return Samples(features, torch.from_numpy(images.labels))


def train_grafts(
    run: Run,
    model: nn.Module,
    name: str,
    hybrid: Hybrid,
    samples: Samples,
    splits: Splits,
    config: TrainingConfig,
) -> tuple[list[GraftedModel], list[list[EpochRecord]]]:
    """Train one head per fold and the final one; of `model` only the layers matter, not weights."""
    parts = parts_of(splits)
    grafts = [
        new_graft(model, name, hybrid, config, seed=head_seed(config, hybrid, number))
        for number in range(len(parts))
    ]
    with run.timed(f"{name}/{hybrid.variant}"):
        heads = [grafted.head for grafted in grafts]
        return grafts, train_parts(run, heads, name, hybrid, samples, parts, config)


def parts_of(splits: Splits) -> list[Part]:
    """Return what the heads of the folds learn from, and the final head."""
    parts = [Part(str(k), splits.fold_train(k), fold) for k, fold in enumerate(splits.folds)]
    return [*parts, Part(FINAL, splits.development, None)]


def train_parts(
    run: Run,
    heads: list[nn.Module],
    name: str,
    hybrid: Hybrid,
    samples: Samples,
    parts: list[Part],
    config: TrainingConfig,
) -> list[list[EpochRecord]]:
    """Train one head per part, or read those that are finished, and return their records.

    Dressed heads are trained all at once by compiled code, other heads one by one in torch; both
    take the same steps.
    """
    recipe = Recipe(config.head_epochs, config.head_learning_rate, config.batch_size)
    work = SAMPLE_COST * (len(parts[-1].training))
    files = [head_file(run.folder, name, hybrid.variant, part.name) for part in parts]
    notes = [f"{name} {hybrid.variant}, {part.note}" for part in parts]
    seeds = [order_seed(config, name, hybrid, number) for number in range(len(parts))]
    if not all(can_train(head, samples, recipe) for head in heads):
        return [
            train(
                head,
                samples.subset(part.training),
                None if part.validation is None else samples.subset(part.validation),
                recipe,
                seed=seed,
                checkpoint=file,
                on_epoch=run.each_epoch(work, note),
            )
            for head, part, seed, file, note in zip(heads, parts, seeds, files, notes, strict=True)
        ]
    missing = [k for k, file in enumerate(files) if finished_epochs(file) < recipe.epochs]
    counters = [run.each_epoch(work, note) for note in notes]
    tasks = [
        HeadTask(
            heads[k], torch.from_numpy(parts[k].training), _tensor(parts[k].validation), seeds[k]
        )
        for k in missing
    ]
    train_heads(
        tasks,
        samples,
        recipe,
        on_epoch=lambda task, history: counters[missing[task]](1, history),
        on_trained=lambda task, history: store_trained(
            files[missing[task]], heads[missing[task]], history
        ),
    )
    curves = [load_trained(file, head) for file, head in zip(files, heads, strict=True)]
    for number in set(range(len(parts))) - set(missing):
        counters[number](len(curves[number]), curves[number])
    return curves


def _tensor(index: np.ndarray | None) -> torch.Tensor | None:
    return None if index is None else torch.from_numpy(index)


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
