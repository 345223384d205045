"""One training loop for trunks on images and heads on cached features.

The order of the samples and every dropout mask are pure functions of (seed, epoch), so a
training that stops and goes on from its last checkpoint ends with the same bits.
"""

from __future__ import annotations

import ctypes
import json
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from qgraft.errors import RunError, WeightsError
from qgraft.seeds import torch_stream
from qgraft.training.checkpoint import load_tensors, load_tensors_with_metadata, save_tensors

EpochRecord = dict[str, float]
STORE_EVERY_S = 10.0


class Recipe(NamedTuple):
    """How to train: Adam with cross-entropy on logits."""

    epochs: int
    learning_rate: float
    batch_size: int = 64
    mixed_precision: bool = False


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

    Raises:
        RunError: the loss is no longer finite.
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimiser = torch.optim.Adam(parameters, recipe.learning_rate, fused=True)
    history: list[EpochRecord] = []
    if checkpoint and checkpoint.exists():
        history = _restore(checkpoint, model, optimiser)
        on_epoch(len(history), history)
    stored = time.monotonic()
    for epoch in range(len(history), recipe.epochs):
        with torch_stream(seed, "epoch", epoch) as generator:
            loss, accuracy = _train_epoch(model, optimiser, training, recipe, generator)
        record = {"train_loss": loss, "train_accuracy": accuracy}
        if validation is not None:
            record["val_loss"], record["val_accuracy"] = _score(model, validation, recipe)
        history.append(record)
        is_last = epoch == recipe.epochs - 1
        if checkpoint and (is_last or time.monotonic() - stored >= STORE_EVERY_S):
            _store(checkpoint, model, optimiser, history)
            stored = time.monotonic()
        on_epoch(1, history)
    return history


def _train_epoch(
    model: nn.Module,
    optimiser: torch.optim.Optimizer,
    samples: Samples,
    recipe: Recipe,
    generator: torch.Generator,
) -> tuple[float, float]:
    model.train()
    order = torch.randperm(len(samples.labels), generator=generator)
    total = torch.zeros(2)
    for index in order.split(recipe.batch_size):
        inputs, labels = samples.at(index)
        optimiser.zero_grad(set_to_none=True)
        with torch.autocast("cpu", torch.bfloat16, enabled=recipe.mixed_precision):
            logits = model(inputs)
        logits = logits.float() if logits.dtype == torch.bfloat16 else logits
        loss = F.cross_entropy(logits, labels)
        loss.backward()
        optimiser.step()
        with torch.no_grad():
            total[0] += loss * len(index)
            total[1] += (logits.argmax(-1) == labels).sum()
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


def _store(
    path: Path, model: nn.Module, optimiser: torch.optim.Optimizer, history: list[EpochRecord]
) -> None:
    tensors = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    for number, state in optimiser.state_dict()["state"].items():
        tensors |= {f"optimiser.{number}.{name}": tensor for name, tensor in state.items()}
    save_tensors(path, tensors, history=json.dumps(history))


def store_trained(path: Path, model: nn.Module, history: list[EpochRecord]) -> None:
    """Write the weights of a finished training and its epoch records, for `load_trained`."""
    tensors = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    save_tensors(path, tensors, history=json.dumps(history))


def finished_epochs(path: Path) -> int:
    """Return how many epochs a checkpoint holds, 0 where there is none."""
    if not path.exists():
        return 0
    return len(json.loads(load_tensors_with_metadata(path)[1].get("history", "[]")))


def load_trained(path: Path, model: nn.Module) -> list[EpochRecord]:
    """Put the weights of a checkpoint into `model` and return its epoch records."""
    tensors, metadata = load_tensors_with_metadata(path)
    load_weights(model, _under(tensors, "model."), path)
    if "history" not in metadata:
        raise WeightsError(f"{path} was not written by a training of qgraft: it has no history")
    return json.loads(metadata["history"])


def _restore(path: Path, model: nn.Module, optimiser: torch.optim.Optimizer) -> list[EpochRecord]:
    history = load_trained(path, model)
    tensors = load_tensors(path)
    state = optimiser.state_dict()
    for name, tensor in _under(tensors, "optimiser.").items():
        number, key = name.split(".")
        state["state"].setdefault(int(number), {})[key] = tensor
    optimiser.load_state_dict(state)
    for parameter, moments in optimiser.state.items():
        for key, value in moments.items():
            if value.shape == parameter.shape:  # fused Adam reads raw memory, whatever the strides
                moments[key] = torch.empty_like(parameter, requires_grad=False).copy_(value)
    return history


def _under(tensors: Mapping[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


def load_weights(model: nn.Module, tensors: Mapping[str, torch.Tensor], path: Path) -> None:
    """Put named tensors into `model`; names and shapes must match exactly.

    Raises:
        WeightsError: a tensor is missing, unexpected, of another shape or not finite.
    """
    expected = model.state_dict()
    wrong = sorted(set(expected) ^ set(tensors)) or sorted(
        name for name, tensor in expected.items() if tensor.shape != tensors[name].shape
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
