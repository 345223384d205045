"""Train a head for a fixed number of steps on small batches, as Kim, Huh and Park do.

200 steps of 50 samples drawn with replacement, Adam at rate 0.01, cross-entropy summed over the
batch (arXiv 2208.14708). Batches are drawn before training and nothing here touches a global
generator, so heads may be trained side by side in threads.
"""

from __future__ import annotations

from collections.abc import Callable
from math import isfinite
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from qgraft.errors import ConfigError, RunError
from qgraft.seeds import numpy_rng
from qgraft.training.loop import Samples
from qgraft.training.one_thread import one_thread
from qgraft.training.stopping import stop_if_asked

Optimiser = Literal["adam", "nesterov", "lbfgs", "spsa"]
Cost = Literal["cross-entropy", "mse"]

MOMENTUM = 0.9  # of Nesterov's method, as published
SEARCH_STEPS = 5  # of L-BFGS on one batch
SPSA_DECAY, SPSA_SHRINK, SPSA_REACH = 0.602, 0.101, 0.1  # Spall's exponents, first perturbation


class StepRecipe(NamedTuple):
    """How to train by steps; the defaults are published."""

    steps: int = 200
    batch_size: int = 50
    learning_rate: float = 0.01
    optimiser: Optimiser = "adam"
    cost: Cost = "cross-entropy"


def drawn_batches(n: int, recipe: StepRecipe, seed: int) -> Tensor:
    """Return indices `(steps, batch_size)` below `n`, drawn with replacement."""
    draws = numpy_rng(seed, "batches").integers(0, n, (recipe.steps, recipe.batch_size))
    return torch.from_numpy(draws)


def epoch_batches(n: int, recipe: StepRecipe, seed: int) -> Tensor:
    """Return as many whole batches of the first `n` samples as the recipe has steps, reshuffled."""
    rng, needed = numpy_rng(seed, "epochs"), recipe.steps * recipe.batch_size
    orders = [rng.permutation(n) for _ in range(-(-needed // n))]
    return torch.from_numpy(np.concatenate(orders)[:needed]).view(recipe.steps, -1)


def whole_batches(n: int, recipe: StepRecipe, seed: int) -> Tensor:
    """Return batches of samples that lie together among `n`, each at most once, reshuffled."""
    order = numpy_rng(seed, "whole batches").permutation(n // recipe.batch_size)[: recipe.steps]
    return torch.from_numpy(order[:, None] * recipe.batch_size + np.arange(recipe.batch_size))


@one_thread()
def train_steps(
    head: nn.Module, samples: Samples, batches: Tensor, recipe: StepRecipe, *, seed: int = 0
) -> list[float]:
    """Train `head` in place, one step per batch, and return the mean cost of every batch.

    Args:
        head: maps features `(batch, n_features)` to logits `(batch, n_classes)`.
        samples: float features and labels that the batches index into.
        batches: `(steps, batch_size)` indices.
        recipe: optimiser settings.
        seed: decides the perturbations of SPSA.

    Raises:
        RunError: the cost is no longer finite.
        ConfigError: there is no such optimiser or cost.
    """
    if recipe.optimiser not in get_args(Optimiser):
        raise ConfigError(
            f"unknown optimiser {recipe.optimiser!r}; use one of {', '.join(get_args(Optimiser))}"
        )
    step = _spsa(head, recipe, seed) if recipe.optimiser == "spsa" else descent(head, recipe)
    head.train()
    costs = []
    for index in batches:
        stop_if_asked()
        inputs, labels = samples.at(index)

        def total(inputs: Tensor = inputs, labels: Tensor = labels) -> Tensor:
            return cost_of(head(inputs), labels, recipe.cost)

        costs.append(step(total) / len(index))
        if not isfinite(costs[-1]):
            raise RunError(
                f"the training cost became {costs[-1]}; lower the learning rate "
                f"(now {recipe.learning_rate:g})"
            )
    return costs


def cost_of(logits: Tensor, labels: Tensor, cost: Cost) -> Tensor:
    """Return the cost summed over a batch.

    `mse` is the squared distance of <Z> = p0 - p1 to 1 for class 0 and -1 for class 1.
    """
    if cost == "cross-entropy":
        return F.cross_entropy(logits, labels, reduction="sum")
    if cost != "mse":
        raise ConfigError(f"unknown cost {cost!r}; use one of {', '.join(get_args(Cost))}")
    if logits.shape[1] != 2:
        raise ConfigError(f"the cost 'mse' is for 2 classes, this head has {logits.shape[1]}")
    p = logits.softmax(-1)
    return (p[:, 0] - p[:, 1] - (1 - 2 * labels)).square().sum()


def descent(head: nn.Module, recipe: StepRecipe) -> Callable[[Callable[[], Tensor]], float]:
    """Return a function that takes one step down the gradient of a cost and returns its value.

    The optimisers are `adam`, `nesterov` and `lbfgs`.
    """
    parameters = [p for p in head.parameters() if p.requires_grad]
    rate = recipe.learning_rate
    if recipe.optimiser == "adam":
        optimiser = torch.optim.Adam(parameters, rate, fused=True)
    elif recipe.optimiser == "nesterov":
        optimiser = torch.optim.SGD(parameters, rate, momentum=MOMENTUM, nesterov=True)
    else:
        optimiser = torch.optim.LBFGS(
            parameters, rate, max_iter=SEARCH_STEPS, line_search_fn="strong_wolfe"
        )

    def step(total: Callable[[], Tensor]) -> float:
        def closure() -> Tensor:
            optimiser.zero_grad(set_to_none=True)
            cost = total()
            cost.backward()
            return cost

        cost: Any = optimiser.step(closure)  # pyright: ignore[reportArgumentType]
        return float(cost.detach())

    return step


def _spsa(
    head: nn.Module, recipe: StepRecipe, seed: int
) -> Callable[[Callable[[], Tensor]], float]:
    """Return a step of simultaneous perturbation: two costs, no gradient (Spall 1998).

    The rate decays as `k**-0.602` and the perturbation as `k**-0.101`.
    """
    parameters = [p for p in head.parameters() if p.requires_grad]
    rng, settle, taken = numpy_rng(seed, "spsa"), 0.1 * recipe.steps, 0

    @torch.no_grad()
    def step(total: Callable[[], Tensor]) -> float:
        nonlocal taken
        reach = SPSA_REACH / (taken + 1) ** SPSA_SHRINK
        rate = recipe.learning_rate * ((settle + 1) / (settle + taken + 1)) ** SPSA_DECAY
        signs = [
            torch.from_numpy(rng.choice([-1.0, 1.0], tuple(p.shape))).to(p) for p in parameters
        ]
        costs = []
        for move in (reach, -2 * reach):
            for p, sign in zip(parameters, signs, strict=True):
                p.add_(sign, alpha=move)
            costs.append(float(total()))
        slope = (costs[0] - costs[1]) / (2 * reach)
        for p, sign in zip(parameters, signs, strict=True):
            p.add_(sign, alpha=reach - rate * slope)
        taken += 1
        return sum(costs) / 2

    return step


@torch.no_grad()
def accuracy(head: nn.Module, samples: Samples, *, batch_size: int = 512) -> tuple[float, Tensor]:
    """Return the share of samples called right, and which ones, `(n,)`."""
    head.eval()
    predicted = torch.cat([head(part).argmax(-1) for part in samples.inputs.split(batch_size)])
    right = predicted == samples.labels
    return float(right.double().mean()), right
