"""Train many dressed heads on cached features at once: all steps and the optimiser are compiled.

Each head gets what `training.loop.train` would give it: the same order of samples, the same Adam,
the same records. Heads are independent, so threads share them out and change nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import accumulate
from math import isfinite
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from qgraft.errors import RunError
from qgraft.heads.dressed import DressedHead
from qgraft.seeds import torch_stream
from qgraft.simulate.lanes import LANES
from qgraft.simulate.lowering import Program, lower, packs
from qgraft.training.head_kernel import run_epoch
from qgraft.training.kept import EpochRecord
from qgraft.training.loop import Recipe, Samples
from qgraft.training.stopping import stop_if_asked

SCORE_BATCH = 256


class HeadTask(NamedTuple):
    """One training: a head, the samples it learns from and is scored on, and its seed.

    Attributes:
        head: trained in place.
        training: int64 indices of samples.
        validation: int64 indices of samples scored after every epoch, if any.
        seed: with the epoch number decides the sample order.
    """

    head: nn.Module
    training: Tensor
    validation: Tensor | None
    seed: int


def can_train(head: nn.Module, samples: Samples, recipe: Recipe) -> bool:
    """Tell whether `train_heads` takes this head; `loop.train` takes any."""
    kind = samples.inputs.dtype
    return (
        type(head) is DressedHead
        and not recipe.mixed_precision
        and not recipe.mixup
        and not recipe.warms
        and samples.inputs.ndim == 2
        and kind in (torch.float32, torch.float64)
        and head.backend != "torch"
        and head.pre.in_features == samples.inputs.shape[1]
        and not head._forward_hooks
        and all(p.is_cpu and p.dtype == kind for p in head.parameters())
        and all(p.requires_grad for p in head.parameters() if p is not head.weights)
    )


def train_heads(
    tasks: Sequence[HeadTask],
    samples: Samples,
    recipe: Recipe,
    *,
    threads: int | None = None,
    on_epoch: Callable[[int, list[EpochRecord]], None] = lambda task, history: None,
    on_trained: Callable[[int, list[EpochRecord]], None] = lambda task, history: None,
) -> list[list[EpochRecord]]:
    """Train every head in place and return its records, one per epoch, as `loop.train` does.

    Args:
        tasks: what to train; the heads must be different modules.
        samples: float features `(n, n_features)` and labels that all tasks index into.
        recipe: optimiser settings.
        threads: heads trained at the same time; by default torch's number of threads.
        on_epoch: called with the number of a task and its records after each of its epochs; from
            several threads, never twice at once for one task.
        on_trained: called likewise when the head of a task is trained and holds its weights.

    Raises:
        RunError: a head does not fit (see `can_train`), or a loss is no longer finite.
    """
    unfit = [number for number, t in enumerate(tasks) if not can_train(t.head, samples, recipe)]
    if unfit:
        raise RunError(
            f"task {unfit[0]} is not a dressed head for these features that the native kernels "
            "can run; train it with qgraft.training.loop.train"
        )
    features = samples.inputs.detach().contiguous().numpy()
    labels = samples.labels.numpy()

    def work(number: int) -> list[EpochRecord]:
        def done(history: list[EpochRecord]) -> None:
            on_epoch(number, history)

        history = _train(tasks[number], features, labels, recipe, orders[number], done)
        on_trained(number, history)
        return history

    orders = [_orders(task, recipe.epochs) for task in tasks]
    workers = min(len(tasks), threads or torch.get_num_threads())
    if workers <= 1:
        return [work(number) for number in range(len(tasks))]
    with ThreadPoolExecutor(workers) as pool:
        return list(pool.map(work, range(len(tasks))))


def _orders(task: HeadTask, epochs: int) -> list[np.ndarray]:
    """Return the rows of every epoch in training order, as `loop.train` draws them."""
    rows = task.training
    orders = []
    for epoch in range(epochs):
        with torch_stream(task.seed, "epoch", epoch) as generator:
            orders.append(rows[torch.randperm(len(rows), generator=generator)].numpy())
    return orders


def _train(
    task: HeadTask,
    features: np.ndarray,
    labels: np.ndarray,
    recipe: Recipe,
    orders: list[np.ndarray],
    done: Callable[[list[EpochRecord]], None],
) -> list[EpochRecord]:
    head = task.head
    assert isinstance(head, DressedHead)
    program = _program(head, recipe.batch_size)
    parameters = _pack(head)
    moments = np.zeros_like(parameters), np.zeros_like(parameters)
    learns = head.weights.requires_grad
    sizes = head.post.out_features, len(head.weights)
    options = np.array([head.scale, head.relu, *sizes, learns], float)

    def run(rows: np.ndarray, size: int, rate: float, step: int) -> tuple[float, float]:
        sums = np.zeros(2)
        run_epoch(
            program, features, labels, rows, size, options, parameters, *moments, rate, step, sums
        )
        loss, accuracy = sums / len(rows)
        return float(loss), float(accuracy)

    history: list[EpochRecord] = []
    step = 0
    for epoch, order in enumerate(orders):
        stop_if_asked()
        loss, accuracy = run(order, recipe.batch_size, recipe.rate(epoch), step)
        step += -(-len(order) // recipe.batch_size)
        if not isfinite(loss):
            raise RunError(
                f"the training loss became {loss}; lower the learning rate "
                f"(now {recipe.learning_rate:g})"
            )
        record = {"train_loss": loss, "train_accuracy": accuracy}
        if task.validation is not None:
            rows = task.validation.numpy()
            record["val_loss"], record["val_accuracy"] = run(rows, SCORE_BATCH, 0.0, 0)
        history.append(record)
        done(history)
    _unpack(parameters, head)
    return history


def _program(head: DressedHead, batch: int) -> Program:
    return lower(head.circuit, "expvals", packs(head.circuit.n_qubits, batch))


def _members(head: DressedHead) -> list[Tensor]:
    return [head.pre.weight, head.pre.bias, head.weights, head.post.weight, head.post.bias]


def _pack(head: DressedHead) -> np.ndarray:
    """Return all parameters as one vector of whole lanes."""
    flat = torch.cat([p.detach().flatten() for p in _members(head)]).numpy()
    padded = np.zeros(-(-len(flat) // LANES) * LANES, flat.dtype)
    padded[: len(flat)] = flat
    return padded


@torch.no_grad()
def _unpack(parameters: np.ndarray, head: DressedHead) -> None:
    members = _members(head)
    ends = accumulate(p.numel() for p in members)
    for parameter, end in zip(members, ends, strict=True):
        values = parameters[end - parameter.numel() : end]
        parameter.copy_(torch.from_numpy(values).view_as(parameter))
