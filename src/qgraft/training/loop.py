"""One training loop for trunks on images and heads on cached features.

The order of the samples and every dropout mask are pure functions of (seed, epoch), so a
training that stops and goes on from its last checkpoint ends with the same bits. Within an epoch a
checkpoint also holds the steps taken and the state of the generator that dropout draws from.
"""

from __future__ import annotations

import ctypes
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from qgraft.errors import RunError, WeightsError
from qgraft.seeds import torch_stream
from qgraft.training.checkpoint import (
    Tensors,
    load_newest,
    load_tensors_with_metadata,
    save_checkpoint,
    save_tensors,
)
from qgraft.training.stopping import (
    Stopped,
    stop_asked,
    stop_at_once,
    stop_held_back,
    stop_if_asked,
)

EpochRecord = dict[str, float]
STORE_EVERY_S = 10.0  # or longer, where storing would take more than a hundredth of the time


class Recipe(NamedTuple):
    """How to train: Adam with cross-entropy on logits.

    With `fades` the learning rate falls from epoch to epoch, along half a cosine to almost zero;
    with `drops` it falls to a tenth at each of these epochs, counted from 0.
    """

    epochs: int
    learning_rate: float
    batch_size: int = 64
    mixed_precision: bool = False
    fades: bool = False
    drops: tuple[int, ...] = ()

    def rate(self, epoch: int) -> float:
        """Return the learning rate of an epoch, counted from 0."""
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
    kept = _Kept(checkpoint, model, optimiser)
    kept.restore()
    history = kept.history
    if history:
        on_epoch(len(history), history)
    with stop_held_back():
        for epoch in range(len(history), recipe.epochs):
            for group in optimiser.param_groups:
                group["lr"] = recipe.rate(epoch)
            with torch_stream(seed, "epoch", epoch) as generator:
                mean, accuracy = _train_epoch(
                    model, optimiser, training, recipe, generator, kept, partial(loss, epoch)
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
    kept: _Kept,
    loss_of: Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor],
) -> tuple[float, float]:
    model.train()
    order = torch.randperm(len(samples.labels), generator=generator)
    batches = order.split(recipe.batch_size)
    taken, total = kept.resume_epoch(generator)
    for step in range(taken, len(batches)):
        index = batches[step]
        inputs, labels = samples.at(index)
        optimiser.zero_grad(set_to_none=True)
        with torch.autocast("cpu", torch.bfloat16, enabled=recipe.mixed_precision):
            logits = model(inputs)
        logits = logits.float() if logits.dtype == torch.bfloat16 else logits
        loss = loss_of(logits, labels, index)
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


class _Begun(NamedTuple):
    """An epoch under way: steps taken, loss and hits summed so far, where the generator stands."""

    steps: int
    total: torch.Tensor
    generator: torch.Tensor


@dataclass
class _Kept:
    """The checkpoint of one training: when it is written, what it holds, how it is taken up."""

    path: Path | None
    model: nn.Module
    optimiser: torch.optim.Optimizer
    history: list[EpochRecord] = field(default_factory=list)
    begun: _Begun | None = None
    stored: float = field(default_factory=time.monotonic)
    cost: float = 0.0

    def restore(self) -> None:
        """Take up the newest intact checkpoint, if there is one."""
        found = load_newest(self.path) if self.path else None
        if not found:
            return
        assert self.path
        tensors, metadata = found
        load_weights(self.model, _under(tensors, "model."), self.path)
        self.history = _history(metadata, self.path)
        _load_moments(self.optimiser, _under(tensors, "optimiser."), self.path)
        if epoch := _under(tensors, "epoch."):
            self.begun = _Begun(int(epoch["steps"]), epoch["total"], epoch["generator"])

    def resume_epoch(self, generator: torch.Generator) -> tuple[int, torch.Tensor]:
        """Return steps taken and sums so far of the epoch that starts now; set the generator."""
        if self.begun is None:
            return 0, torch.zeros(2)
        generator.set_state(self.begun.generator)
        return self.begun.steps, self.begun.total

    def end_step(self, steps: int, total: torch.Tensor, generator: torch.Generator) -> None:
        """Store the epoch under way if it is time to, and end if a signal asks for it."""
        self.begun = _Begun(steps, total, generator.get_state())
        if stop_asked() or self._is_due():
            self._store()
        stop_if_asked()

    @contextmanager
    def stoppable(self) -> Iterator[None]:
        """Let a signal end the block, which leaves the weights alone, at once."""
        try:
            with stop_at_once():
                yield
        except Stopped:
            self._store()
            raise

    def end_epoch(self, record: EpochRecord, *, is_last: bool) -> None:
        """Add the record of an epoch and store it if it is time to."""
        self.history.append(record)
        self.begun = None
        if is_last or self._is_due():
            self._store()

    def _is_due(self) -> bool:
        return time.monotonic() - self.stored >= STORE_EVERY_S * max(1.0, 10 * self.cost)

    def _store(self) -> None:
        if not self.path:
            return
        start = time.monotonic()
        tensors = {f"model.{name}": tensor for name, tensor in self.model.state_dict().items()}
        for number, state in self.optimiser.state_dict()["state"].items():
            tensors |= {f"optimiser.{number}.{name}": tensor for name, tensor in state.items()}
        if self.begun:
            tensors |= {
                "epoch.steps": torch.tensor(self.begun.steps),
                "epoch.total": self.begun.total,
                "epoch.generator": self.begun.generator,
            }
        save_checkpoint(self.path, tensors, history=json.dumps(self.history))
        self.stored = time.monotonic()
        self.cost = self.stored - start


def store_trained(path: Path, model: nn.Module, history: list[EpochRecord]) -> None:
    """Write the weights of a finished training and its epoch records, for `load_trained`."""
    tensors = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    save_tensors(path, tensors, history=json.dumps(history))


def finished_epochs(path: Path) -> int:
    """Return how many epochs an intact checkpoint holds, 0 where there is none."""
    found = load_newest(path)
    return len(_history(found[1], path)) if found else 0


def load_trained(path: Path, model: nn.Module) -> list[EpochRecord]:
    """Put the weights of a checkpoint into `model` and return its epoch records."""
    tensors, metadata = load_tensors_with_metadata(path)
    load_weights(model, _under(tensors, "model."), path)
    return _history(metadata, path)


def _history(metadata: Mapping[str, str], path: Path) -> list[EpochRecord]:
    """Return the epoch records of a checkpoint.

    Raises:
        WeightsError: it has none, or they are not lists of named numbers.
    """
    with suppress(ValueError, RecursionError, KeyError, AttributeError, TypeError):
        history = json.loads(metadata["history"])
        values = [value for record in history for value in record.values()]
        if isinstance(history, list) and all(isinstance(value, float) for value in values):
            return history
    raise WeightsError(f"{path} was not written by a training of qgraft: it has no history")


def _load_moments(optimiser: torch.optim.Optimizer, tensors: Tensors, path: Path) -> None:
    """Put Adam's step counts and moments into `optimiser`.

    Raises:
        WeightsError: they are not those of the parameters of `optimiser`.
    """
    parameters = [p for group in optimiser.param_groups for p in group["params"]]
    keys = ("step", "exp_avg", "exp_avg_sq")
    expected = {f"{n}.{key}" for n in range(len(parameters)) for key in keys}
    if tensors and set(tensors) != expected:
        raise WeightsError(f"{path} holds the optimiser of another network; choose another --out")
    state = optimiser.state_dict()
    for name, tensor in tensors.items():
        number, key = name.split(".")
        if key != "step" and tensor.shape != parameters[int(number)].shape:
            raise WeightsError(f"{path} holds {name} of another shape; choose another --out")
        state["state"].setdefault(int(number), {})[key] = tensor
    optimiser.load_state_dict(state)
    for parameter, moments in optimiser.state.items():
        for key, value in moments.items():
            if value.shape == parameter.shape:  # fused Adam reads raw memory, whatever the strides
                moments[key] = torch.empty_like(parameter, requires_grad=False).copy_(value)


def _under(tensors: Mapping[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


def load_weights(model: nn.Module, tensors: Mapping[str, torch.Tensor], path: Path) -> None:
    """Put named tensors into `model`; names and shapes must match exactly.

    Raises:
        WeightsError: a tensor is missing, unexpected, of another shape or not finite.
    """
    expected = model.state_dict()
    wrong = sorted(set(expected) ^ set(tensors)) or sorted(
        name
        for name, tensor in expected.items()
        if (tensor.shape, tensor.dtype) != (tensors[name].shape, tensors[name].dtype)
    )
    if wrong:
        raise WeightsError(
            f"{path} does not fit this model: {len(wrong)} tensors missing, unexpected or of "
            f"another shape, first {wrong[0]!r}; was it trained with other settings?"
        )
    broken = [name for name, tensor in tensors.items() if not torch.isfinite(tensor).all()]
    if broken:
        raise WeightsError(f"{path} holds values that are not finite in {broken[0]!r}")
    model.load_state_dict(dict(tensors))


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
