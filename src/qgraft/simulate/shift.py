"""Gradients from measurements alone: parameter shifts and simultaneous perturbation.

Parameter shifts are exact in expectation: two runs per rotation, four per controlled rotation
(Schuld et al., arXiv 1811.11184; Wierichs et al., arXiv 2107.12390). SPSA needs two runs in all,
whatever the number of parameters (Spall 1992).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from math import pi, sqrt
from typing import Any

import torch
from torch import Tensor

from qgraft.circuits.circuit import Circuit, Op, Param
from qgraft.errors import CircuitError

Measure = Callable[[Circuit, Tensor, Tensor], Tensor]
Estimator = Callable[[Measure, Circuit, Tensor, Tensor, Tensor], tuple[Tensor | None, Tensor]]

MAX_ROWS = 4096  # samples and shifts run at once
TWO = ((pi / 2, 0.5), (-pi / 2, -0.5))
_NEAR, _FAR = (sqrt(2) + 1) / (4 * sqrt(2)), (sqrt(2) - 1) / (4 * sqrt(2))
FOUR = ((pi / 2, _NEAR), (-pi / 2, -_NEAR), (3 * pi / 2, -_FAR), (-3 * pi / 2, _FAR))
FOUR_TERMS = {"CRX": (0,), "CRY": (0,), "CRZ": (0,), "CRot": (0, 1, 2), "CU3": (0,)}


@dataclass(frozen=True)
class Opened:
    """A circuit in which every place that takes a number is an input of its own.

    Attributes:
        circuit: takes all of them as angles; as weights where the input is amplitudes.
        params: where each number comes from.
        rules: the shifts and coefficients of each.
    """

    circuit: Circuit
    params: tuple[Param, ...]
    rules: tuple[tuple[tuple[float, float], ...], ...]

    def numbers(self, angles: Tensor, weights: Tensor) -> Tensor:
        """Return the number at every place, `(batch, n_places)`."""
        columns = []
        for param in self.params:
            source = angles[:, param.index] if param.source == "angle" else weights[param.index]
            columns.append((param.scale * source + param.offset).expand(len(angles)))
        return torch.stack(columns, dim=1) if columns else angles.new_zeros(len(angles), 0)


@lru_cache(maxsize=64)
def open_circuit(circuit: Circuit) -> Opened:
    """Return the circuit with an input for every place that takes an angle or a weight."""
    params: list[Param] = []
    rules = []
    ops: list[Op] = []
    for op in circuit.ops:
        taken = list(op.params)
        for place, param in enumerate(op.params):
            if param.source == "constant":
                continue
            taken[place] = Param("weight" if circuit.amplitudes else "angle", len(params))
            params.append(param)
            rules.append(FOUR if place in FOUR_TERMS.get(op.gate, ()) else TWO)
        ops.append(replace(op, params=tuple(taken)))
    return Opened(replace(circuit, ops=tuple(ops)), tuple(params), tuple(rules))


def measured(
    estimator: Estimator, measure: Measure, circuit: Circuit, angles: Tensor, weights: Tensor
) -> Tensor:
    """Return `measure(circuit, angles, weights)` with the gradient that an estimator finds."""
    return _Measured.apply(estimator, measure, circuit, angles, weights)


class _Measured(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        estimator: Estimator,
        measure: Measure,
        circuit: Circuit,
        angles: Tensor,
        weights: Tensor,
    ) -> Tensor:
        ctx.run = estimator, measure, circuit
        ctx.save_for_backward(angles, weights)
        return measure(circuit, angles, weights)

    @staticmethod
    def backward(ctx: Any, *by_outputs: Tensor) -> Any:
        estimator, measure, circuit = ctx.run
        angles, weights = (tensor.detach() for tensor in ctx.saved_tensors)
        if circuit.amplitudes and ctx.needs_input_grad[3]:
            raise CircuitError(
                "amplitudes have no gradient from measurements; detach them, or train with the "
                "straight-through gradient"
            )
        by_angles, by_weights = estimator(measure, circuit, angles, weights, by_outputs[0])
        return None, None, None, by_angles, by_weights


def parameter_shift(
    measure: Measure, circuit: Circuit, angles: Tensor, weights: Tensor, by_values: Tensor
) -> tuple[Tensor | None, Tensor]:
    """Return the gradients by angles and weights of `(by_values * values).sum()`."""
    opened = open_circuit(circuit)
    by_place = _by_place(measure, opened, angles, weights, by_values)
    by_angles, by_weights = torch.zeros_like(angles), torch.zeros_like(weights)
    for param, column in zip(opened.params, by_place, strict=True):
        if param.source == "angle":
            by_angles[:, param.index] += param.scale * column
        else:
            by_weights[param.index] += param.scale * column.sum()
    return None if circuit.amplitudes else by_angles, by_weights


def _by_place(
    measure: Measure, opened: Opened, angles: Tensor, weights: Tensor, by_values: Tensor
) -> Tensor:
    """Return the derivative by the number at every place, `(n_places, batch)`."""
    numbers = opened.numbers(angles, weights)
    jobs = [(k, *term) for k, rule in enumerate(opened.rules) for term in rule]
    found = numbers.new_zeros(len(opened.params), len(angles))
    amplitudes = opened.circuit.amplitudes
    step = 1 if amplitudes else max(1, MAX_ROWS // max(1, len(angles)))
    for start in range(0, len(jobs), step):
        part = jobs[start : start + step]
        shifted = numbers.repeat(len(part), 1, 1)
        for row, (place, shift, _) in enumerate(part):
            shifted[row, :, place] += shift
        if amplitudes:
            values = measure(opened.circuit, angles, shifted[0, 0])[None]
        else:
            rows = shifted.flatten(0, 1)
            values = measure(opened.circuit, rows, weights[:0]).unflatten(0, (len(part), -1))
        change = (values * by_values).flatten(2).sum(-1)
        for row, (place, _, coefficient) in enumerate(part):
            found[place] += coefficient * change[row]
    return found


def spsa(generator: torch.Generator, size: float = 0.1) -> Estimator:
    """Return the estimator that moves all parameters at once by `size`, at random up or down."""

    def signs(like: Tensor) -> Tensor:
        draws = torch.randint(0, 2, like.shape, generator=generator)
        return 2.0 * draws.to(like) - 1.0

    def estimator(
        measure: Measure, circuit: Circuit, angles: Tensor, weights: Tensor, by_values: Tensor
    ) -> tuple[Tensor | None, Tensor]:
        up, turn = signs(weights), torch.zeros_like(angles)
        if not circuit.amplitudes:
            turn = signs(angles)
        high = measure(circuit, angles + size * turn, weights + size * up)
        low = measure(circuit, angles - size * turn, weights - size * up)
        slope = (by_values * (high - low)).sum(1) / (2 * size)
        return None if circuit.amplitudes else slope[:, None] * turn, slope.sum() * up

    return estimator
