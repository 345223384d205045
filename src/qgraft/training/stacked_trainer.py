"""Train many dense heads of one shape at once: weights are stacked, a step is one batched product.

Each head gets what `training.loop.train` would give it: the same order of samples, the same dropout
masks, the same Adam. A small head costs torch more in calls than in arithmetic; thirty heads in one
call cost little more than one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from math import isfinite
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from qgraft.errors import RunError
from qgraft.heads.controls import ScaledTanh, Sine
from qgraft.seeds import derive
from qgraft.training.head_trainer import HeadTask
from qgraft.training.loop import Recipe, Samples
from qgraft.training.one_thread import one_thread

ELEMENTWISE = (nn.ReLU, nn.Tanh, Sine, ScaledTanh)
Linears = Sequence[nn.Linear]
STACK_BYTES = 8 * 2**20  # of the inputs of one step: a stack should stay in the second-level cache


class _Batch(NamedTuple):
    """One batch of every head, padded to the same size.

    Attributes:
        rows: samples `(n_heads, size)`; padding repeats sample 0.
        shares: what a row counts for in the loss of its head `(n_heads, size)`; 0 for padding.
        masks: factors `(n_heads, size, width)` of every dropout layer in order.
    """

    rows: Tensor
    shares: Tensor
    masks: list[Tensor]


def can_stack(head: nn.Module, samples: Samples, recipe: Recipe) -> bool:
    """Tell whether `train_stacked` takes this head: a chain of layers it knows, all trainable."""
    return (
        isinstance(head, nn.Sequential)
        and all(isinstance(layer, (nn.Linear, nn.Dropout, *ELEMENTWISE)) for layer in head)
        and all(layer.bias is not None for layer in head if isinstance(layer, nn.Linear))
        and not recipe.mixed_precision
        and not recipe.mixup
        and not recipe.warms
        and samples.inputs.ndim == 2
        and all(p.requires_grad and p.dtype == samples.inputs.dtype for p in head.parameters())
    )


def train_stacked(
    tasks: Sequence[HeadTask],
    samples: Samples,
    recipe: Recipe,
    *,
    on_epoch: Callable[[int, float], None] = lambda n_heads, loss: None,
) -> None:
    """Train every head in place; nothing is scored on the way.

    Args:
        tasks: what to train: heads of one shape, different modules.
        samples: float features `(n, n_features)` and labels that all tasks index into.
        recipe: optimiser settings.
        on_epoch: called after each epoch with the number of heads that took part and their mean
            training loss.

    Raises:
        RunError: a head cannot be stacked (see `can_stack`), or a loss is no longer finite.
    """
    for number, task in enumerate(tasks):
        if not can_stack(task.head, samples, recipe) or str(task.head) != str(tasks[0].head):
            raise RunError(
                f"task {number} is not a plain chain of dense layers like the first one; "
                "train it with qgraft.training.loop.train"
            )
    for stack in _stacks(tasks, samples, recipe):
        _train_stack(stack, samples, recipe, on_epoch)


def _stacks(
    tasks: Sequence[HeadTask], samples: Samples, recipe: Recipe
) -> Iterator[list[HeadTask]]:
    """Part the tasks into stacks that take the same number of steps and fit the cache."""
    parameters = sum(p.numel() for p in tasks[0].head.parameters()) if tasks else 0
    inputs = recipe.batch_size * samples.inputs.shape[1]
    most = max(1, STACK_BYTES // (samples.inputs.element_size() * max(inputs, parameters)))
    by_steps: dict[int, list[HeadTask]] = {}
    for task in tasks:
        by_steps.setdefault(-(-len(task.training) // recipe.batch_size), []).append(task)
    for alike in by_steps.values():
        for start in range(0, len(alike), most):
            yield alike[start : start + most]


@one_thread()
def _train_stack(
    tasks: list[HeadTask], samples: Samples, recipe: Recipe, on_epoch: Callable[[int, float], None]
) -> None:
    layers = list(zip(*(cast(nn.Sequential, task.head) for task in tasks), strict=True))
    kinds = [heads[0] for heads in layers]
    linears = [cast(Linears, heads) for heads in layers if isinstance(heads[0], nn.Linear)]
    weights = [_stacked(heads) for heads in linears]
    parameters = [p for pair in weights for p in pair]
    optimiser = torch.optim.Adam(parameters, recipe.learning_rate, fused=True)
    for epoch in range(recipe.epochs):
        optimiser.param_groups[0]["lr"] = recipe.rate(epoch)
        total, n_batches = 0.0, 0
        for batch in _batches(tasks, kinds, samples, recipe.batch_size, epoch):
            optimiser.zero_grad(set_to_none=True)
            inputs = samples.inputs.index_select(0, batch.rows.flatten())
            inputs = inputs.unflatten(0, batch.rows.shape).mT
            logits = _forward(kinds, weights, inputs, batch.masks)
            losses = F.cross_entropy(logits, samples.labels[batch.rows], reduction="none")
            loss = (losses * batch.shares).sum()  # each head sees its own share only
            loss.backward()
            optimiser.step()
            total, n_batches = total + float(loss.detach()) / len(tasks), n_batches + 1
        if not isfinite(total):
            raise RunError(
                f"the training loss became {total}; lower the learning rate "
                f"(now {recipe.learning_rate:g})"
            )
        on_epoch(len(tasks), total / n_batches)
    _unstack(linears, weights)


def _stacked(linears: Linears) -> tuple[Tensor, Tensor]:
    """Return weights `(n_heads, n_out, n_in)` and biases `(n_heads, n_out, 1)` as parameters."""
    weight = torch.stack([linear.weight.detach() for linear in linears])
    bias = torch.stack([linear.bias.detach()[:, None] for linear in linears])
    return weight.requires_grad_(), bias.requires_grad_()


@torch.no_grad()
def _unstack(layers: Sequence[Linears], weights: Sequence[tuple[Tensor, Tensor]]) -> None:
    for linears, (weight, bias) in zip(layers, weights, strict=True):
        for number, linear in enumerate(linears):
            linear.weight.copy_(weight[number])
            linear.bias.copy_(bias[number, :, 0])


def _forward(
    kinds: Sequence[nn.Module],
    weights: Sequence[tuple[Tensor, Tensor]],
    values: Tensor,
    masks: Sequence[Tensor],
) -> Tensor:
    """Map inputs `(n_heads, n_features, batch)` to logits `(n_heads, n_classes, batch)`.

    Samples come last: products of this shape are four times as fast as the other way round.
    """
    linear, mask = iter(weights), iter(masks)
    for kind in kinds:
        if isinstance(kind, nn.Linear):
            weight, bias = next(linear)
            values = torch.baddbmm(bias, weight, values)
        elif isinstance(kind, nn.Dropout):
            values = values * next(mask).mT
        else:
            values = kind(values)
    return values


def _batches(
    tasks: Sequence[HeadTask],
    kinds: Sequence[nn.Module],
    samples: Samples,
    size: int,
    epoch: int,
) -> Iterator[_Batch]:
    """Yield the batches of an epoch, in the order and with the masks that `loop.train` draws."""
    generators = [
        torch.Generator().manual_seed(derive(task.seed, "epoch", epoch)) for task in tasks
    ]
    lengths = torch.tensor([len(task.training) for task in tasks])
    orders = torch.zeros(len(tasks), int(lengths.max()), dtype=torch.int64)
    for order, task, generator in zip(orders, tasks, generators, strict=True):
        n = len(task.training)
        order[:n] = task.training[torch.randperm(n, generator=generator)]
    places = torch.arange(orders.shape[1])
    for rows, here in zip(orders.split(size, 1), places.split(size), strict=True):
        real = (here < lengths[:, None]).to(samples.inputs.dtype)
        counts = real.sum(1, keepdim=True)
        masks = list(_masks(kinds, generators, counts.int().flatten().tolist(), real))
        yield _Batch(rows, real / counts, masks)


def _masks(
    kinds: Sequence[nn.Module],
    generators: Sequence[torch.Generator],
    lengths: Sequence[int],
    like: Tensor,
) -> Iterator[Tensor]:
    """Yield the factors of each dropout layer, drawn as `torch.nn.Dropout` draws them."""
    width = 0
    for kind in kinds:
        if isinstance(kind, nn.Linear):
            width = kind.out_features
        elif isinstance(kind, nn.Dropout):
            masks = like.new_zeros(*like.shape, width)
            for mask, generator, length in zip(masks, generators, lengths, strict=True):
                mask[:length].bernoulli_(1 - kind.p, generator=generator)
            yield masks / (1 - kind.p)
