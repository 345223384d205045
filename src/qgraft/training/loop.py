"""One training loop for trunks on images and heads on cached features.

The order of the samples and every dropout mask are pure functions of (seed, epoch), so a
training that stops and goes on from its last checkpoint ends with the same bits. Within an epoch a
checkpoint also holds the steps taken and the state of the generator that dropout draws from.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from qgraft.errors import RunError
from qgraft.seeds import torch_stream
from qgraft.training.kept import EpochRecord, Kept
from qgraft.training.one_thread import one_thread
from qgraft.training.stopping import stop_held_back, stop_if_asked


class Recipe(NamedTuple):
    """How to train: Adam with cross-entropy on logits.

    With `fades` the learning rate falls from epoch to epoch, along half a cosine to almost zero;
    with `drops` it falls to a tenth at each of these epochs, counted from 0. With `warms` it rises
    from step to step of the first epoch, since Adam's first steps are as long as they may be
    whatever the gradient, and would spoil weights that are good already. With `mixup` a batch
    is blended with itself in another order, in a share drawn from Beta(mixup, mixup), and so is
    its loss (Zhang et al., ICLR 2018).
    """

    epochs: int
    learning_rate: float
    batch_size: int = 64
    mixed_precision: bool = False
    fades: bool = False
    drops: tuple[int, ...] = ()
    mixup: float = 0.0
    warms: bool = False

    def rate(self, epoch: int, taken: float = 1.0) -> float:
        """Return the learning rate of an epoch, counted from 0, with a share of its steps taken."""
        if self.warms and epoch == 0:
            return self.learning_rate * taken
        if not self.fades:
            return self.learning_rate * 0.1 ** sum(epoch >= drop for drop in self.drops)
        return self.learning_rate * (1 + math.cos(math.pi * epoch / self.epochs)) / 2


class Samples(NamedTuple):
    """Inputs `(n, ...)`, uint8 images or float features, and int64 labels `(n,)`."""

    inputs: torch.Tensor
    labels: torch.Tensor

    def at(self, index: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return float inputs and labels of the samples at `index`."""
        return as_float(self.inputs[index]), self.labels[index]

    def subset(self, index: np.ndarray) -> Samples:
        """Return the samples at `index`, in that order."""
        return Samples(self.inputs[index], self.labels[index])


# The epoch from 0, logits and labels of a batch, which samples it holds -> what a step lowers.
Loss = Callable[[int, torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


def label_loss(
    epoch: int, logits: torch.Tensor, labels: torch.Tensor, index: torch.Tensor
) -> torch.Tensor:
    """Return the mean cross-entropy with the labels."""
    return F.cross_entropy(logits, labels)


def as_float(inputs: torch.Tensor) -> torch.Tensor:
    """Map uint8 images `(n, c, h, w)` to float32 in 0..1, channels last; leave floats alone."""
    if inputs.dtype != torch.uint8:
        return inputs
    # oneDNN convolutions run two to three times faster in this memory order.
    return inputs.to(torch.float32).div_(255).contiguous(memory_format=torch.channels_last)


@one_thread()
def train(
    model: nn.Module,
    training: Samples,
    validation: Samples | None,
    recipe: Recipe,
    *,
    seed: int,
    checkpoint: Path | None = None,
    on_epoch: Callable[[int, list[EpochRecord]], None] = lambda new, history: None,
    loss: Loss = label_loss,
) -> list[EpochRecord]:
    """Train `model` in place and return one record of losses and accuracies per epoch.

    Args:
        model: maps float inputs `(batch, ...)` to logits `(batch, n_classes)`.
        training: samples to learn from.
        validation: samples scored after every epoch, if any; they never influence the weights.
        recipe: optimiser settings.
        seed: with the epoch number decides sample order and dropout.
        checkpoint: file that is rewritten every few seconds and after the last epoch, and
            continued from when present.
        on_epoch: called with the number of epochs new since the last call, and all records.
        loss: what training lowers; validation always reports the cross-entropy.

    Raises:
        RunError: the loss is no longer finite.
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimiser = torch.optim.Adam(parameters, recipe.learning_rate, fused=True)
    kept = Kept(checkpoint, model, optimiser)
    kept.restore()
    history = kept.history
    if history:
        on_epoch(len(history), history)
    with stop_held_back():
        for epoch in range(len(history), recipe.epochs):
            rate = partial(recipe.rate, epoch)
            with torch_stream(seed, "epoch", epoch) as generator:
                mean, accuracy = _train_epoch(
                    model, optimiser, training, recipe, generator, kept, partial(loss, epoch), rate
                )
            record = {"train_loss": mean, "train_accuracy": accuracy}
            if validation is not None:
                with kept.stoppable():
                    record["val_loss"], record["val_accuracy"] = _score(model, validation, recipe)
            kept.end_epoch(record, is_last=epoch == recipe.epochs - 1)
            on_epoch(1, history)
    stop_if_asked()
    return history


def _train_epoch(
    model: nn.Module,
    optimiser: torch.optim.Optimizer,
    samples: Samples,
    recipe: Recipe,
    generator: torch.Generator,
    kept: Kept,
    loss_of: Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor],
    rate: Callable[[float], float],
) -> tuple[float, float]:
    model.train()
    order = torch.randperm(len(samples.labels), generator=generator)
    batches = order.split(recipe.batch_size)
    taken, total = kept.resume_epoch(generator)
    for step in range(taken, len(batches)):
        for group in optimiser.param_groups:
            group["lr"] = rate((step + 1) / len(batches))
        index = batches[step]
        inputs, labels = samples.at(index)
        share, other = 1.0, index
        if recipe.mixup:
            share, order_inside = _blend(len(index), recipe.mixup)
            inputs, other = torch.lerp(inputs[order_inside], inputs, share), index[order_inside]
        optimiser.zero_grad(set_to_none=True)
        with torch.autocast("cpu", torch.bfloat16, enabled=recipe.mixed_precision):
            logits = model(inputs)
        logits = logits.float() if logits.dtype == torch.bfloat16 else logits
        loss = loss_of(logits, labels, index)
        if recipe.mixup:
            loss = share * loss + (1 - share) * loss_of(logits, samples.labels[other], other)
        loss.backward()
        optimiser.step()
        with torch.no_grad():
            total[0] += loss * len(index)
            hits = (logits.argmax(-1) == labels).view(len(index), -1)
            total[1] += hits.float().mean(1).sum()
        kept.end_step(step + 1, total, generator)
    loss, accuracy = (total / len(order)).tolist()
    if loss != loss or abs(loss) == float("inf"):
        raise RunError(
            f"the training loss became {loss}; lower the learning rate "
            f"(now {recipe.learning_rate:g})"
        )
    return loss, accuracy


def _blend(n: int, mixup: float) -> tuple[float, torch.Tensor]:
    """Draw the share of the first partner and who the second ones are, from torch's generator."""
    concentration = torch.tensor(mixup)
    share = torch.distributions.Beta(concentration, concentration).sample()
    return float(share), torch.randperm(n)


def _score(model: nn.Module, samples: Samples, recipe: Recipe) -> tuple[float, float]:
    """Return mean cross-entropy and accuracy."""
    logits = predict_logits(model, samples.inputs, mixed_precision=recipe.mixed_precision)
    loss = F.cross_entropy(logits, samples.labels)
    return float(loss), float((logits.argmax(-1) == samples.labels).float().mean())


@torch.no_grad()
def predict_logits(
    model: nn.Module, inputs: torch.Tensor, *, batch_size: int = 256, mixed_precision: bool = False
) -> torch.Tensor:
    """Return the outputs `(n, ...)` of `model` in eval mode for uint8 images or features."""
    model.eval()
    with torch.autocast("cpu", torch.bfloat16, enabled=mixed_precision):
        parts = [model(as_float(part)).float() for part in inputs.split(batch_size)]
    return torch.cat(parts)


def keep_freed_memory() -> None:
    """Tell the C library to keep freed blocks instead of returning them to the system.

    A convolution step frees and takes again hundreds of megabytes; without this, clearing the
    fresh pages costs about a third of the step. Does nothing where glibc is not the C library.
    """
    m_trim_threshold, m_top_pad, m_mmap_max = -1, -2, -4
    with suppress(OSError, AttributeError):
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(m_mmap_max, 0)
        libc.mallopt(m_trim_threshold, 2**31 - 1)
        libc.mallopt(m_top_pad, 2**28)
