"""Finite shots: counts of outcomes, and what is estimated from them.

Pauli words that can be read in one basis share their shots (qubit-wise commuting words), as on a
device; their errors are therefore correlated as they would be there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from math import pi

import torch
from torch import Tensor

from qgraft.circuits.circuit import Circuit, Op, Param, PauliWord
from qgraft.errors import CircuitError
from qgraft.simulate import backends

Simulate = Callable[[Circuit, Tensor, Tensor], Tensor]
MAX_SHOTS = 10**9

# What turns a letter into Z before the measurement.
BASIS = {"X": ("H", ()), "Y": ("RX", (Param("constant", offset=pi / 2),)), "Z": None}


@dataclass(frozen=True)
class Setting:
    """One basis to measure in.

    Attributes:
        circuit: ends with the change of basis and reads the probabilities of the measured qubits.
        words: numbers of the observables that are read here.
        sites: for each of them the places of its qubits among those measured.
    """

    circuit: Circuit
    words: tuple[int, ...]
    sites: tuple[tuple[int, ...], ...]

    def expvals(self, outcomes: Tensor) -> Tensor:
        """Return expectation values `(batch, n_words)` from probabilities `(batch, 2**k)`."""
        return outcomes @ self._signs().to(outcomes)

    def _signs(self) -> Tensor:
        k = len(self.circuit.probabilities or ())
        outcome = torch.arange(2**k)
        columns = [
            sum((outcome >> (k - 1 - site) & 1 for site in sites), torch.zeros_like(outcome))
            for sites in self.sites
        ]
        return 1.0 - 2.0 * (torch.stack(columns, dim=1) % 2)


@lru_cache(maxsize=256)
def settings_of(circuit: Circuit) -> tuple[Setting, ...]:
    """Return the settings that read all observables, each word in the first that allows it."""
    groups: list[tuple[dict[int, str], list[int]]] = []
    for number, word in enumerate(circuit.observables):
        fitting = (
            group
            for group in groups
            if all(group[0].get(qubit, letter) == letter for letter, qubit in word)
        )
        group = next(fitting, None)
        if group is None:
            group = ({}, [])
            groups.append(group)
        group[0].update({qubit: letter for letter, qubit in word})
        group[1].append(number)
    return tuple(_setting(circuit, *group) for group in groups)


def _setting(circuit: Circuit, basis: dict[int, str], group: list[int]) -> Setting:
    qubits = tuple(sorted(basis))
    turned = circuit.ops
    for qubit in qubits:
        change = BASIS[basis[qubit]]
        if change is not None:
            turned += (Op(change[0], (qubit,), change[1]),)

    def sites(word: PauliWord) -> tuple[int, ...]:
        return tuple(qubits.index(qubit) for _, qubit in word)

    reading = replace(circuit, ops=turned, observables=(), probabilities=qubits)
    return Setting(reading, tuple(group), tuple(sites(circuit.observables[k]) for k in group))


def draw_counts(probabilities: Tensor, shots: int, generator: torch.Generator) -> Tensor:
    """Draw how often each outcome is seen, `(batch, n_outcomes)`, float64, from exact ones.

    The shots are halved again and again by binomial draws, so the cost does not grow with them.

    Raises:
        CircuitError: the number of shots cannot be.
    """
    check_shots(shots)
    levels = [probabilities.detach().double().clamp_min(0.0)]
    while levels[-1].shape[1] > 1:
        levels.append(levels[-1].unflatten(1, (-1, 2)).sum(-1))
    counts = torch.full_like(levels.pop(), float(shots))
    for level in reversed(levels):
        pair = level.unflatten(1, (-1, 2))
        whole = pair.sum(-1)
        share = torch.where(whole > 0, pair[..., 0] / whole.clamp_min(1e-300), 0.5)
        first = torch.binomial(counts, share.clamp(0.0, 1.0), generator)
        counts = torch.stack([first, counts - first], dim=-1).flatten(1)
    return counts


def check_shots(shots: int) -> None:
    """Raise CircuitError unless it is a number of shots."""
    if isinstance(shots, bool) or not isinstance(shots, int) or not 1 <= shots <= MAX_SHOTS:
        raise CircuitError(f"shots must be an integer from 1 to {MAX_SHOTS:,}, got {shots!r}")


def estimate(probabilities: Tensor, shots: int, generator: torch.Generator) -> Tensor:
    """Return relative frequencies in the dtype of the probabilities.

    The gradient is that of the exact probabilities (straight-through).
    """
    found = draw_counts(probabilities, shots, generator).to(probabilities) / shots
    return probabilities + (found - probabilities).detach()


def sample_probabilities(
    circuit: Circuit,
    angles: Tensor,
    weights: Tensor,
    shots: int,
    generator: torch.Generator,
    simulate: Simulate = backends.probabilities,
) -> Tensor:
    """Return relative frequencies `(batch, 2**k)` of the circuit's k read-out qubits.

    Args:
        circuit: what to run.
        angles: `(batch, n_angles)`.
        weights: `(n_weights,)`.
        shots: measurements of every sample.
        generator: decides the outcomes.
        simulate: computes exact probabilities; with noise, for example.
    """
    return estimate(simulate(circuit, angles, weights), shots, generator)


def sample_expvals(
    circuit: Circuit,
    angles: Tensor,
    weights: Tensor,
    shots: int,
    generator: torch.Generator,
    simulate: Simulate = backends.probabilities,
) -> Tensor:
    """Return estimates `(batch, n_observables)` of the Pauli words, `shots` for every setting.

    Arguments are those of `sample_probabilities`.
    """
    if not circuit.observables:
        raise CircuitError("the circuit has no observables; give some or ask for probabilities")

    def frequencies(setting: Setting) -> Tensor:
        return sample_probabilities(setting.circuit, angles, weights, shots, generator, simulate)

    return read_words(circuit, frequencies)


def read_words(circuit: Circuit, outcomes: Callable[[Setting], Tensor]) -> Tensor:
    """Return expectation values `(batch, n_observables)` from the outcomes of each setting."""
    settings = settings_of(circuit)
    columns = [setting.expvals(outcomes(setting)) for setting in settings]
    order = [number for setting in settings for number in setting.words]
    table = columns[0] if len(columns) == 1 else torch.cat(columns, dim=1)
    if order == sorted(order):
        return table
    return table[:, [order.index(number) for number in range(len(order))]]
