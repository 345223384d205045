"""PennyLane measurements in, columns of numbers out.

All measurements of a tape become one table `(batch, columns)`: one column per expectation value,
`2**k` columns per read-out of k qubits, in the order the tape measures them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from qgraft.circuits.circuit import Circuit, Op, PauliWord
from qgraft.errors import CircuitError
from qgraft.simulate.backends import Backend, expvals, probabilities

MAX_DENSE_QUBITS = 5  # an observable given as a matrix becomes up to 4**n Pauli words


class UntranslatableError(CircuitError):
    """Something on a tape that has no counterpart among circuits."""

    def __init__(self, what: str) -> None:
        super().__init__(
            f"{what} cannot be translated into a circuit; "
            "pass fallback=True to run this qnode on PennyLane"
        )


@dataclass(frozen=True)
class Readout:
    """What is measured, in a circuit's terms.

    Attributes:
        words: the Pauli words that occur, each once.
        mixing: for every expectation value its offset and one coefficient per word; None when
            the expectation values are the words themselves.
        probabilities: the qubits of every probability read-out.
        widths: columns per measurement.
        order: columns of the table from `(expectation values, probabilities)`; None when in order.
    """

    words: tuple[PauliWord, ...]
    mixing: tuple[tuple[float, ...], ...] | None
    probabilities: tuple[tuple[int, ...], ...]
    widths: tuple[int, ...]
    order: tuple[int, ...] | None

    def circuits(self, n_qubits: int, ops: tuple[Op, ...], amplitudes: bool) -> tuple[Circuit, ...]:
        """Return the circuit of the words, if any, and one per probability read-out."""
        by_words = [Circuit(n_qubits, ops, self.words, None, amplitudes)] if self.words else []
        return (
            *by_words,
            *(Circuit(n_qubits, ops, (), qubits, amplitudes) for qubits in self.probabilities),
        )

    def table(
        self,
        circuits: tuple[Circuit, ...],
        angles: Tensor,
        weights: Tensor,
        backend: Backend = "auto",
    ) -> Tensor:
        """Return the measured numbers `(batch, columns)`."""
        parts: list[Tensor] = []
        if self.words:
            parts.append(expvals(circuits[0], angles, weights, backend))
        elif self.mixing is not None:  # only identities are measured
            parts.append(angles.new_empty(len(angles), 0))
        if self.mixing is not None:
            mixing = torch.tensor(self.mixing, dtype=angles.dtype, device=angles.device)
            parts[0] = parts[0] @ mixing[:, 1:].T + mixing[:, 0]
        read = circuits[len(circuits) - len(self.probabilities) :]
        parts += [probabilities(circuit, angles, weights, backend) for circuit in read]
        columns = parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)
        return columns if self.order is None else columns[:, list(self.order)]


def read_measurements(
    measurements: Sequence[Any], qubit_of: Callable[[Any], int], all_wires: Sequence[Any]
) -> Readout:
    """Return the read-out of a tape's measurements.

    Args:
        measurements: PennyLane measurement processes.
        qubit_of: maps a wire to a qubit.
        all_wires: what a probability without wires reads.

    Raises:
        UntranslatableError: a measurement is neither an expectation value nor a probability.
    """
    from pennylane.measurements import ExpectationMP, ProbabilityMP

    sums: list[dict[PauliWord, float]] = []
    read: list[tuple[int, ...]] = []
    kinds: list[str] = []
    for measurement in measurements:
        if isinstance(measurement, ExpectationMP):
            kinds.append("expval")
            sums.append(_pauli_sum(measurement, qubit_of))
        elif isinstance(measurement, ProbabilityMP) and measurement.obs is None:
            kinds.append("probs")
            read.append(tuple(qubit_of(wire) for wire in measurement.wires or all_wires))
        else:
            raise UntranslatableError(f"the measurement {measurement}")
    words = tuple(dict.fromkeys(word for terms in sums for word in terms if word))
    plain = [terms for terms in sums if list(terms.values()) == [1.0] and () not in terms]
    is_plain = len(plain) == len(sums) == len(words)
    mixing = tuple((s.get((), 0.0), *(s.get(word, 0.0) for word in words)) for s in sums)
    widths, order = _columns(kinds, read)
    return Readout(words, None if is_plain else mixing, tuple(read), widths, order)


def _columns(
    kinds: list[str], read: list[tuple[int, ...]]
) -> tuple[tuple[int, ...], tuple[int, ...] | None]:
    """Return the columns per measurement, and where they lie when not in order."""
    sizes = iter(2 ** len(qubits) for qubits in read)
    widths = tuple(1 if kind == "expval" else next(sizes) for kind in kinds)
    next_column = {"expval": 0, "probs": kinds.count("expval")}
    order: list[int] = []
    for kind, width in zip(kinds, widths, strict=True):
        order += range(next_column[kind], next_column[kind] + width)
        next_column[kind] += width
    return widths, None if order == sorted(order) else tuple(order)


def _pauli_sum(measurement: Any, qubit_of: Callable[[Any], int]) -> dict[PauliWord, float]:
    """Return an observable as coefficients of Pauli words; the empty word is the identity."""
    from pennylane import math, pauli_decompose, pytrees

    obs = measurement.obs
    if obs is None:
        raise UntranslatableError(f"the measurement {measurement}")
    numbers: Any = pytrees.flatten(obs)[0]
    if any(isinstance(number, Tensor) and number.requires_grad for number in numbers):
        raise UntranslatableError(f"the trainable observable {obs.name} in {measurement}")
    sentence: Any = obs.pauli_rep
    if sentence is None:
        if not obs.has_matrix or len(obs.wires) > MAX_DENSE_QUBITS:
            raise UntranslatableError(f"the observable {obs.name} in {measurement}")
        matrix = np.asarray(math.unwrap([obs.matrix(wire_order=obs.wires)])[0])
        sentence = pauli_decompose(matrix, wire_order=obs.wires, pauli=True)
    terms: dict[PauliWord, float] = {}
    for word, coefficient in sentence.items():
        letters = sorted(((str(p), qubit_of(wire)) for wire, p in word.items()), key=_qubit)
        terms[*letters,] = terms.get((*letters,), 0.0) + complex(coefficient).real
    return {word: value for word, value in terms.items() if value}


def _qubit(letter: tuple[str, int]) -> int:
    return letter[1]
