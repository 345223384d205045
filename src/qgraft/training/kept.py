"""What a training keeps on disk: weights, optimiser, records, and where it stands in an epoch.

A checkpoint is written every few seconds and at the end; `qgraft.training.checkpoint` says how it
survives kills and faults.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn

from qgraft.errors import WeightsError
from qgraft.training.checkpoint import (
    Tensors,
    load_newest,
    load_tensors_with_metadata,
    save_checkpoint,
    save_tensors,
)
from qgraft.training.stopping import Stopped, stop_asked, stop_at_once, stop_if_asked

EpochRecord = dict[str, float]
STORE_EVERY_S = 10.0  # or longer, where storing would take more than a hundredth of the time


class _Begun(NamedTuple):
    """An epoch under way: steps taken, loss and hits summed so far, where the generator stands."""

    steps: int
    total: torch.Tensor
    generator: torch.Tensor


@dataclass
class Kept:
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
