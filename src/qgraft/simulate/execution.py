"""How a circuit is run: noise, shots, gradients and what is done against the noise.

An `Execution` is data; `run_expvals` and `run_probabilities` carry it out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from qgraft.circuits.circuit import Circuit
from qgraft.circuits.folding import fold
from qgraft.errors import CircuitError
from qgraft.simulate import backends
from qgraft.simulate.density import noisy_expvals, noisy_probabilities
from qgraft.simulate.noise import NoiseModel
from qgraft.simulate.sampling import check_shots, estimate, read_words
from qgraft.simulate.shift import Estimator, Measure, measured, parameter_shift, spsa
from qgraft.simulate.trajectories import misread, trajectory_probabilities

Gradient = Literal["straight-through", "parameter-shift", "spsa"]
Read = Callable[["Execution", torch.Generator, Circuit, Tensor, Tensor], Tensor]

DENSITY_UP_TO = 8  # qubits; trajectories take over above


@dataclass(frozen=True)
class Execution:
    """How a circuit is run.

    Attributes:
        noise: what goes wrong; None for an ideal device.
        shots: measurements per sample and setting; None for exact values.
        gradient: exact derivative behind sampled values, or from measurements alone.
        unmix: undo read-out errors by inverting each qubit's confusion matrix.
        folds: factors of zero-noise extrapolation, such as (1, 3); empty for none.
        trajectories: how many stand for a density matrix of more than eight qubits.
    """

    noise: NoiseModel | None = None
    shots: int | None = None
    gradient: Gradient = "straight-through"
    unmix: bool = False
    folds: tuple[int, ...] = ()
    trajectories: int = 256

    def __post_init__(self) -> None:
        if self.shots is not None:
            check_shots(self.shots)
        if self.gradient not in get_args(Gradient):
            raise CircuitError(
                f"gradient {self.gradient!r} is unknown; use one of {get_args(Gradient)}"
            )
        if self.folds and (len(self.folds) < 2 or len(set(self.folds)) < len(self.folds)):
            raise CircuitError(
                f"extrapolation needs two different folding factors or more, got {self.folds}"
            )
        if self.unmix and self.noise is not None and abs(_determinant(self.noise)) < 1e-6:
            raise CircuitError(
                f"read-out errors {self.noise.readout} cannot be undone: both outcomes look alike"
            )


def run_expvals(
    how: Execution,
    circuit: Circuit,
    angles: Tensor,
    weights: Tensor,
    generator: torch.Generator,
) -> Tensor:
    """Return expectation values `(batch, n_observables)` as an execution finds them.

    Raises:
        CircuitError: the numbers do not fit the circuit or the execution.
    """
    if not circuit.observables:
        raise CircuitError("the circuit has no observables; give some or ask for probabilities")
    return _run(how, _expvals, circuit, angles, weights, generator)


def run_probabilities(
    how: Execution,
    circuit: Circuit,
    angles: Tensor,
    weights: Tensor,
    generator: torch.Generator,
) -> Tensor:
    """Return outcome probabilities `(batch, 2**k)` as an execution finds them.

    Undoing read-out errors can leave some of them slightly negative.

    Raises:
        CircuitError: the numbers do not fit the circuit or the execution.
    """
    return _run(how, _outcomes, circuit, angles, weights, generator)


def _run(
    how: Execution,
    read: Read,
    circuit: Circuit,
    angles: Tensor,
    weights: Tensor,
    generator: torch.Generator,
) -> Tensor:
    def once(circuit: Circuit, angles: Tensor, weights: Tensor) -> Tensor:
        return read(how, generator, circuit, angles, weights)

    measure = partial(_extrapolated, once, how.folds)
    if how.gradient == "straight-through":
        return measure(circuit, angles, weights)
    estimator: Estimator = parameter_shift if how.gradient == "parameter-shift" else spsa(generator)
    return measured(estimator, measure, circuit, angles, weights)


def _extrapolated(
    measure: Measure, folds: tuple[int, ...], circuit: Circuit, angles: Tensor, weights: Tensor
) -> Tensor:
    """Return what is measured, extrapolated to no noise where there are folding factors."""
    if not folds:
        return measure(circuit, angles, weights)
    parts = (measure(fold(circuit, factor), angles, weights) for factor in folds)
    found = [c * part for c, part in zip(richardson(folds), parts, strict=True)]
    return torch.stack(found).sum(0)


def richardson(folds: tuple[int, ...]) -> tuple[float, ...]:
    """Return the coefficients of the polynomial through all factors, read at zero."""
    return tuple(
        float(np.prod([other / (other - one) for other in folds if other != one])) for one in folds
    )


def _expvals(
    how: Execution, generator: torch.Generator, circuit: Circuit, angles: Tensor, weights: Tensor
) -> Tensor:
    plain = how.shots is None and not (how.unmix and how.noise)
    if plain and how.noise is None:
        return backends.expvals(circuit, angles, weights)
    in_z = all(letter == "Z" for word in circuit.observables for letter, _ in word)
    if plain and how.noise is not None and in_z and circuit.n_qubits <= DENSITY_UP_TO:
        return noisy_expvals(circuit, angles, weights, how.noise)
    # a change of basis is a gate like any other and has its noise
    return read_words(circuit, lambda s: _outcomes(how, generator, s.circuit, angles, weights))


def _outcomes(
    how: Execution, generator: torch.Generator, circuit: Circuit, angles: Tensor, weights: Tensor
) -> Tensor:
    if how.noise is None:
        outcomes = backends.probabilities(circuit, angles, weights)
    elif circuit.n_qubits <= DENSITY_UP_TO:
        outcomes = noisy_probabilities(circuit, angles, weights, how.noise)
    else:
        outcomes = trajectory_probabilities(
            circuit, angles, weights, how.noise, generator, how.trajectories
        )
    if how.shots is not None:
        outcomes = estimate(outcomes, how.shots, generator)
    if how.unmix and how.noise is not None:
        outcomes = misread(outcomes, np.linalg.inv(how.noise.confusion()))
    return outcomes


def _determinant(noise: NoiseModel) -> float:
    return float(np.linalg.det(noise.confusion()))
