"""Noise as data: which channels follow which gate, and how often an outcome is misread.

Channels and their strengths are PennyLane's: `depolarizing` p, `bit-flip` p, `amplitude-damping`
and `phase-damping` gamma (Nielsen and Chuang, section 8.3).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce
from math import sqrt
from typing import Literal, get_args

import numpy as np

from qgraft.circuits.gates import GATES
from qgraft.errors import CircuitError

Kind = Literal["depolarizing", "amplitude-damping", "phase-damping", "bit-flip"]

PAULIS = np.stack([GATES[letter].matrix() for letter in "IXYZ"])


@dataclass(frozen=True)
class Channel:
    """One channel on one qubit; `strength` is a probability."""

    kind: Kind
    strength: float

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise CircuitError(f"channel {self.kind!r} is unknown; use one of {get_args(Kind)}")
        _check_probability(f"the strength of {self.kind}", self.strength)

    def kraus(self) -> np.ndarray:
        """Return the Kraus operators `(k, 2, 2)`."""
        p, (one, x, y, z) = self.strength, PAULIS
        if self.kind == "depolarizing":
            return np.stack([sqrt(1 - p) * one, *(sqrt(p / 3) * pauli for pauli in (x, y, z))])
        if self.kind == "bit-flip":
            return np.stack([sqrt(1 - p) * one, sqrt(p) * x])
        stay = np.diag([1, sqrt(1 - p)]).astype(complex)
        lost = np.zeros((2, 2), dtype=complex)
        lost[(0 if self.kind == "amplitude-damping" else 1), 1] = sqrt(p)
        return np.stack([stay, lost])

    def pauli_weights(self) -> tuple[float, ...] | None:
        """Return the probabilities of I, X, Y and Z; None when it is no mixture of them."""
        p = self.strength
        if self.kind == "depolarizing":
            return 1 - p, p / 3, p / 3, p / 3
        if self.kind == "bit-flip":
            return 1 - p, p, 0.0, 0.0
        if self.kind == "phase-damping":
            flip = (1 - sqrt(1 - p)) / 2
            return 1 - flip, 0.0, 0.0, flip
        return None


@dataclass(frozen=True)
class NoiseModel:
    """What goes wrong in a circuit.

    Attributes:
        after: channels after every gate, on each of its qubits.
        by_gate: pairs of a gate's name and the channels that follow it instead.
        readout: probability that a 0 is read as 1, and that a 1 is read as 0.
    """

    after: tuple[Channel, ...] = ()
    by_gate: tuple[tuple[str, tuple[Channel, ...]], ...] = ()
    readout: tuple[float, float] = (0.0, 0.0)

    def __post_init__(self) -> None:
        for gate, _ in self.by_gate:
            if gate not in GATES:
                raise CircuitError(f"noise after unknown gate {gate!r}; known: {', '.join(GATES)}")
        for error in self.readout:
            _check_probability("a read-out error", error)

    def channels(self, gate: str) -> tuple[Channel, ...]:
        """Return the channels that follow a gate, on each of its qubits."""
        return dict(self.by_gate).get(gate, self.after)

    def transfer(self, gate: str) -> np.ndarray:
        """Return all channels after a gate as one matrix `(4, 4)` on a qubit's Pauli basis."""
        steps = (pauli_transfer(channel.kraus()) for channel in self.channels(gate))
        return reduce(lambda before, step: step @ before, steps, np.eye(4))

    def confusion(self) -> np.ndarray:
        """Return `(2, 2)`: the probability of reading the row when the column is true."""
        up, down = self.readout
        return np.array([[1 - up, down], [up, 1 - down]])


def depolarizing(
    one_qubit: float, two_qubit: float | None = None, readout: float = 0.0
) -> NoiseModel:
    """Return depolarising noise after every gate, of another strength after larger gates."""
    wide = one_qubit if two_qubit is None else two_qubit
    larger = tuple(
        (name, (Channel("depolarizing", wide),))
        for name, gate in GATES.items()
        if gate.n_qubits > 1
    )
    after = (Channel("depolarizing", one_qubit),)
    return NoiseModel(after, () if wide == one_qubit else larger, (readout, readout))


def pauli_transfer(kraus: np.ndarray) -> np.ndarray:
    """Return the real matrix of a map on the Pauli basis of its qubits.

    `R_ij = sum_k tr(P_i K_k P_j K_k^dagger) / d` for Kraus operators `(k, d, d)`.
    """
    words = pauli_words(kraus.shape[-1].bit_length() - 1)
    images = np.einsum("kab,jbc,kdc->jad", kraus, words, kraus.conj(), optimize=True)
    return np.real(np.einsum("iab,jba->ij", words, images, optimize=True)) / kraus.shape[-1]


def pauli_words(n_qubits: int) -> np.ndarray:
    """Return all Pauli words `(4**n, 2**n, 2**n)`, the first qubit leading, in order I X Y Z."""
    return reduce(
        lambda left, right: np.einsum("iab,jcd->ijacbd", left, right).reshape(
            len(left) * 4, left.shape[1] * 2, left.shape[2] * 2
        ),
        [PAULIS] * n_qubits,
    )


def _check_probability(what: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise CircuitError(f"{what} must be a probability from 0 to 1, got {value!r}")
