"""One cell of the QCNN study: a model on a pair of classes, trained from several seeds.

A cell leaves one file with weights, costs and which test images each head got right; every number
of the study is computed from these files, and a cell that has its file is not trained again.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from qgraft.errors import RunError
from qgraft.seeds import derive, numpy_rng, torch_stream
from qgraft.training.checkpoint import load_tensors, save_tensors
from qgraft.training.loop import Samples
from qgraft.training.minibatch import (
    StepRecipe,
    accuracy,
    drawn_batches,
    epoch_batches,
    train_steps,
    whole_batches,
)
from qgraft.training.stopping import stop_if_asked

VALIDATION_SHARE = 0.2
TUNING_SEEDS = 3
RATES = (1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
_BUILDING = threading.Lock()  # torch's generator is one for all threads


class PairTask(NamedTuple):
    """Features and labels of two classes; label 1 is the first class of the pair's name."""

    name: str
    training: Samples
    test: Samples


class Contestant(NamedTuple):
    """A model with its recipe.

    Attributes:
        key: names its file.
        build: returns a new head; its initial weights come from torch's generator.
        recipe: how each head is trained.
        first: if given, batches are taken epoch by epoch from so many first training samples;
            otherwise drawn with replacement from all.
        whole: batches are samples that lie together, each batch taken once.
    """

    key: str
    build: Callable[[], nn.Module]
    recipe: StepRecipe
    first: int | None = None
    whole: bool = False


class Scores(NamedTuple):
    """What the heads of a cell reached.

    Attributes:
        right: `(n_seeds, n_test)` which test images each head called right.
        costs: `(n_seeds, steps)` mean cost of every batch.
        n_params: parameters of one head.
    """

    right: np.ndarray
    costs: np.ndarray
    n_params: int

    @property
    def accuracies(self) -> np.ndarray:
        """Test accuracies as fractions, one per seed."""
        return self.right.mean(axis=1)


def train_cell(
    contestant: Contestant,
    pair: PairTask,
    *,
    seed: int,
    n_seeds: int,
    folder: Path | None = None,
    on_seed: Callable[[float], None] = lambda accuracy: None,
) -> Scores:
    """Train the heads of one cell, or read what an earlier run left.

    Args:
        contestant: what to train.
        pair: what to train it on.
        seed: with the number of a head decides its initial weights and batches. Batches depend
            on seed, head and pair only, so models can be compared head by head.
        n_seeds: how many heads.
        folder: where the file of the cell is kept, if at all.
        on_seed: told the test accuracy of every head.
    """
    path = folder / f"{contestant.key}-{pair.name}.safetensors" if folder else None
    if path and path.exists():
        scores = _read(path, n_seeds, len(pair.test.labels))
        for value in scores.accuracies:
            on_seed(float(value))
        return scores
    costs, rights, states = [], [], []
    for number in range(n_seeds):
        stop_if_asked()
        head = _new_head(contestant, seed, number)
        stream = derive(seed, f"batches {pair.name}", number)
        recipe, n = contestant.recipe, len(pair.training.labels)
        if contestant.whole:
            batches = whole_batches(n, recipe, stream)
        elif contestant.first is None:
            batches = drawn_batches(n, recipe, stream)
        else:
            batches = epoch_batches(min(n, contestant.first), recipe, stream)
        costs.append(train_steps(head, pair.training, batches, recipe, seed=stream))
        value, right = accuracy(head, pair.test)
        rights.append(right)
        states.append(head.state_dict())
        on_seed(value)
    tensors = {f"state.{name}": torch.stack([s[name] for s in states]) for name in states[0]}
    tensors |= {"costs": torch.tensor(costs), "right": torch.stack(rights)}
    if path:
        save_tensors(path, tensors)
    return _scores(tensors)


def _new_head(contestant: Contestant, seed: int, number: int) -> nn.Module:
    with _BUILDING, torch_stream(seed, "initial weights", number):
        return contestant.build()


def _read(path: Path, n_seeds: int, n_test: int) -> Scores:
    tensors = load_tensors(path)
    shape = tuple(tensors["right"].shape) if "right" in tensors else ()
    if shape != (n_seeds, n_test) or "costs" not in tensors:
        raise RunError(
            f"{path} holds results {shape}, not those of {n_seeds} heads on {n_test} images; "
            "delete it and run again"
        )
    return _scores(tensors)


def _scores(tensors: dict[str, Tensor]) -> Scores:
    n_params = sum(t[0].numel() for name, t in tensors.items() if name.startswith("state."))
    return Scores(tensors["right"].numpy(), tensors["costs"].numpy(), n_params)


def tuned_rate(
    contestant: Contestant, pair: PairTask, *, seed: int, rates: Sequence[float] | None = None
) -> float:
    """Return the learning rate with the best accuracy on a fifth of the training samples.

    Three heads per rate; the test images play no part.
    """
    order = numpy_rng(seed, f"validation {pair.name}").permutation(len(pair.training.labels))
    cut = int(len(order) * (1 - VALIDATION_SHARE))
    held = PairTask(
        pair.name,
        pair.training.subset(np.sort(order[:cut])),
        pair.training.subset(np.sort(order[cut:])),
    )

    def score(rate: float) -> float:
        trial = contestant._replace(recipe=contestant.recipe._replace(learning_rate=rate))
        cell = train_cell(trial, held, seed=derive(seed, "tuning"), n_seeds=TUNING_SEEDS)
        return float(cell.accuracies.mean())

    return max(rates or RATES, key=score)
