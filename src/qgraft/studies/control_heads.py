"""Train what a hybrid is compared with: the same head from other seeds, and every control.

All heads of one kind, one per seed and fold, are trained at once and leave one file with the
classes they predict; that is all a comparison needs. At the same seed and fold a control draws
its initial weights and its order of samples from the same streams as the hybrid.
"""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from qgraft.config import TrainingConfig
from qgraft.data.splits import Splits
from qgraft.errors import WeightsError
from qgraft.grafting import removed_layers
from qgraft.heads.registry import build_head
from qgraft.seeds import torch_stream
from qgraft.studies.hybrid import Hybrid, head_file, head_options, head_seed, order_seed
from qgraft.studies.run import Run
from qgraft.training.checkpoint import load_newest, save_tensors
from qgraft.training.head_trainer import HeadTask, can_train, train_heads
from qgraft.training.logistic import logistic_head
from qgraft.training.loop import Recipe, Samples, predict_logits, train
from qgraft.training.stacked_trainer import can_stack, train_stacked

# Cost of one sample of a control, in training images of CM-2, to weigh the progress bar.
SAMPLE_COST = 0.001


class Kind(NamedTuple):
    """A kind of head: its name in tables and files, and in a sentence."""

    name: str
    says: str
    repeats: bool = True  # False where seeds change nothing


QUANTUM = Kind("dressed", "the quantum head")
LOGISTIC = Kind("logistic", "logistic regression", repeats=False)
CLASSICAL_LAYERS = Kind("classical-layers", "the classical layers trained anew")
MATCHED = Kind("matched", "the matched dense head")
CONTROLS = (
    MATCHED,
    Kind("matched-sine", "the matched dense head with sines"),
    Kind("dense", "a single linear layer"),
    Kind("frozen-circuit", "the same circuit with frozen random weights"),
    Kind("no-entanglers", "the circuit without entanglers"),
    Kind("no-circuit", "the head without its circuit"),
    LOGISTIC,
    CLASSICAL_LAYERS,
)


def seeds_of(kind: Kind, config: TrainingConfig) -> range:
    """Return the seeds that heads of a kind are trained from; hybrids have their first already."""
    n_seeds = config.head_seeds if kind.repeats else 1
    return range(1, n_seeds) if kind == QUANTUM else range(n_seeds)


def control_file(folder: Path, name: str, variant: str, kind: Kind) -> Path:
    """Return where the classes that the heads of a kind predict are kept."""
    return head_file(folder, name, variant, f"control-{kind.name}")


class Bench(NamedTuple):
    """What all heads of one comparison share.

    Attributes:
        name: the network's name in the tables.
        model: the classical network.
        hybrid: the graft.
        samples: its features and the labels of all images.
        splits: who may see which image.
        n_classes: number of classes.
        config: training settings.
    """

    name: str
    model: nn.Module
    hybrid: Hybrid
    samples: Samples
    splits: Splits
    n_classes: int
    config: TrainingConfig

    @property
    def recipe(self) -> Recipe:
        """Return the settings that all heads are trained with."""
        config = self.config
        return Recipe(config.head_epochs, config.head_learning_rate, config.batch_size)


def control_work(splits: Splits, config: TrainingConfig) -> float:
    """Return the training samples of all controls of a hybrid, in images of CM-2."""
    n_seeds = config.head_seeds
    n_sets = n_seeds - 1 + sum(n_seeds if kind.repeats else 1 for kind in CONTROLS)
    return SAMPLE_COST * config.head_epochs * len(splits.development) * config.folds * n_sets


def predicted_classes(run: Run, bench: Bench, kind: Kind, seeds: range) -> np.ndarray:
    """Return the classes `(n_seeds, n_folds, n)` that every head of a kind gives all samples.

    Heads are trained unless an earlier run has left their file.

    Raises:
        WeightsError: the file is damaged beyond repair or of another study.
    """
    path = control_file(run.folder, bench.name, bench.hybrid.variant, kind)
    shape = (len(seeds), bench.config.folds, len(bench.samples.labels))
    work = SAMPLE_COST * len(bench.splits.development) * bench.config.folds * len(seeds)
    note = f"{bench.name} {bench.hybrid.variant}, {kind.says}"
    found = load_newest(path)
    if found is None:
        heads = trained_heads(run, bench, kind, seeds, note)
        logits = (predict_logits(head, bench.samples.inputs) for head in heads)
        classes = torch.stack([rows.argmax(-1).short() for rows in logits]).view(shape)
        save_tensors(path, {"classes": classes})
    else:
        classes = found[0].get("classes", torch.empty(0))
        run.advance(work * bench.config.head_epochs, note)
    if classes.shape != shape:
        raise WeightsError(
            f"{path} holds classes {tuple(classes.shape)} where {shape} belong; delete it and go "
            "on with --resume"
        )
    return classes.numpy().astype(np.int64)


def trained_heads(run: Run, bench: Bench, kind: Kind, seeds: range, note: str) -> list[nn.Module]:
    """Return the trained heads of all seeds and folds, folds varying fastest."""
    config, hybrid, samples, recipe = bench.config, bench.hybrid, bench.samples, bench.recipe
    places = list(product(seeds, range(config.folds)))
    learning = [torch.from_numpy(bench.splits.fold_train(fold)) for fold in range(config.folds)]
    work = SAMPLE_COST * len(bench.splits.development)
    if kind == LOGISTIC:
        heads: list[nn.Module] = []
        for _, fold in places:
            part = samples.subset(learning[fold].numpy())
            heads.append(logistic_head(part.inputs, part.labels, bench.n_classes))
            run.advance(work * recipe.epochs, note)
        return heads
    heads = [new_head(bench, kind, seed, fold) for seed, fold in places]
    tasks = [
        HeadTask(
            head,
            learning[fold],
            None,
            order_seed(config, bench.name, hybrid, fold, *_repeat(seed)),
        )
        for head, (seed, fold) in zip(heads, places, strict=True)
    ]
    if all(can_train(head, samples, recipe) for head in heads):
        train_heads(tasks, samples, recipe, on_epoch=lambda task, history: run.advance(work, note))
    elif all(can_stack(head, samples, recipe) for head in heads):
        train_stacked(tasks, samples, recipe, on_epoch=lambda n, loss: run.advance(n * work, note))
    else:
        for task in tasks:
            part = samples.subset(task.training.numpy())
            done = run.each_epoch(work, note)
            train(task.head, part, None, recipe, seed=task.seed, on_epoch=done)
    return heads


def new_head(bench: Bench, kind: Kind, seed: int, fold: int) -> nn.Module:
    """Build one head with fresh weights."""
    config, hybrid = bench.config, bench.hybrid
    stream = head_seed(config, hybrid, fold, *_repeat(seed))
    with torch_stream(stream, f"head {bench.name} {hybrid.variant}"):
        if kind == CLASSICAL_LAYERS:
            return _with_new_weights(removed_layers(bench.model, hybrid.replace_last))
        n_features = bench.samples.inputs.shape[1]
        options = head_options(kind.name, config)
        return build_head(kind.name, n_features, bench.n_classes, **options)


def _repeat(seed: int) -> tuple[int, ...]:
    """Return what tells the streams of a seed apart; the first is that of the hybrid itself."""
    return (seed,) if seed else ()


def _with_new_weights(layers: nn.Sequential) -> nn.Sequential:
    """Draw all weights anew, and give the layers back to training."""
    for layer in layers.modules():
        reset = getattr(layer, "reset_parameters", None)
        if reset is not None:
            reset()
    return layers.requires_grad_(True)
