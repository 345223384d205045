"""The gate set as data, with PennyLane's names and conventions (qubit 0 is the leading bit).

Every entry of every gate matrix has the form `scale * cos(cosine . p + shift) * exp(i phase . p)`
in the gate's parameters p. Kept as data, that form gives a simulator all matrices of a circuit
in one vectorised evaluation, and shows by itself which gates are diagonal or permutations.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from math import pi, sqrt

import numpy as np


@dataclass(frozen=True)
class Entry:
    """One matrix entry, `scale * cos(cosine . p + shift) * exp(i phase . p)`.

    `scale` is real where `phase` is given; an empty tuple means no dependence.
    """

    scale: complex = 1.0
    cosine: tuple[float, ...] = ()
    shift: float = 0.0
    phase: tuple[float, ...] = ()

    def __mul__(self, other: Entry) -> Entry:
        return Entry(
            self.scale * other.scale,
            self.cosine or other.cosine,
            self.shift or other.shift,
            self.phase or other.phase,
        )

    def __rmul__(self, factor: complex) -> Entry:
        return Entry(factor * self.scale, self.cosine, self.shift, self.phase)

    def __call__(self, params: Sequence[float]) -> complex:
        """Evaluate the entry at numbers."""
        modulus = np.cos(np.dot(self.cosine, params) + self.shift) if self.cosine else 1.0
        return self.scale * modulus * np.exp(1j * np.dot(self.phase, params) if self.phase else 0.0)


@dataclass(frozen=True)
class Gate:
    """A gate: its matrix as data, and for a controlled gate the name of what it controls."""

    n_qubits: int
    n_params: int
    rows: tuple[tuple[Entry, ...], ...]
    controlled: str = ""

    def matrix(self, params: Sequence[float] = ()) -> np.ndarray:
        """Return the complex128 matrix `(2**n_qubits, 2**n_qubits)` at the given parameters."""
        return np.array([[entry(params) for entry in row] for row in self.rows], dtype=complex)

    @cached_property
    def _pattern(self) -> np.ndarray:
        return np.array([[entry.scale != 0 for entry in row] for row in self.rows])

    @cached_property
    def is_monomial(self) -> bool:
        """True for permutations of basis states up to phases, whatever the parameters."""
        return bool((self._pattern.sum(axis=1) == 1).all())

    @cached_property
    def is_real(self) -> bool:
        """True when the matrix is real, whatever the parameters."""
        return all(not e.phase and complex(e.scale).imag == 0 for row in self.rows for e in row)

    @cached_property
    def diagonal_on(self) -> tuple[int, ...]:
        """Positions of the gate's qubits with whose Z it commutes (controls, diagonal gates)."""
        row, column = np.nonzero(self._pattern)
        changed = row ^ column
        return tuple(
            k for k in range(self.n_qubits) if not (changed >> (self.n_qubits - 1 - k) & 1).any()
        )

    @cached_property
    def trailing(self) -> tuple[int, ...]:
        """Parameters that enter only as a diagonal factor applied last (the omega of Rot)."""
        return tuple(k for k in range(self.n_params) if self._is_trailing(k))

    def _is_trailing(self, param: int) -> bool:
        for row in self.rows:
            present = [entry for entry in row if entry.scale != 0]
            if any(entry.cosine and entry.cosine[param] for entry in present):
                return False
            if len({entry.phase[param] if entry.phase else 0.0 for entry in present}) > 1:
                return False
        return True


def _cos(*factors: float) -> Entry:
    return Entry(cosine=factors)


def _sin(*factors: float) -> Entry:
    return Entry(cosine=factors, shift=-pi / 2)


def _exp(*factors: float) -> Entry:
    return Entry(phase=factors)


def _gate(n_params: int, rows: Sequence[Sequence[Entry | complex]], controlled: str = "") -> Gate:
    entries = tuple(
        tuple(e if isinstance(e, Entry) else Entry(scale=e) for e in row) for row in rows
    )
    return Gate(len(entries).bit_length() - 1, n_params, entries, controlled)


def _controlled(name: str, table: dict[str, Gate]) -> Gate:
    inner = table[name]
    size = len(inner.rows)
    rows = [[1.0 * (r == c) for c in range(2 * size)] for r in range(size)]
    rows += [[0.0] * size + list(row) for row in inner.rows]
    return _gate(inner.n_params, rows, controlled=name)


def _table() -> dict[str, Gate]:
    c, s, h = _cos(0.5), _sin(0.5), sqrt(0.5)
    c_rot, s_rot = _cos(0, 0.5, 0), _sin(0, 0.5, 0)
    c_u3, s_u3 = _cos(0.5, 0, 0), _sin(0.5, 0, 0)
    table = {
        "I": _gate(0, [[1, 0], [0, 1]]),
        "X": _gate(0, [[0, 1], [1, 0]]),
        "Y": _gate(0, [[0, -1j], [1j, 0]]),
        "Z": _gate(0, [[1, 0], [0, -1]]),
        "H": _gate(0, [[h, h], [h, -h]]),
        "S": _gate(0, [[1, 0], [0, 1j]]),
        "T": _gate(0, [[1, 0], [0, complex(h, h)]]),
        "SX": _gate(0, [[0.5 + 0.5j, 0.5 - 0.5j], [0.5 - 0.5j, 0.5 + 0.5j]]),
        "RX": _gate(1, [[c, -1j * s], [-1j * s, c]]),
        "RY": _gate(1, [[c, -1 * s], [s, c]]),
        "RZ": _gate(1, [[_exp(-0.5), 0], [0, _exp(0.5)]]),
        "PhaseShift": _gate(1, [[1, 0], [0, _exp(1)]]),
        # Rot(phi, theta, omega) = RZ(omega) RY(theta) RZ(phi)
        "Rot": _gate(
            3,
            [
                [c_rot * _exp(-0.5, 0, -0.5), -1 * s_rot * _exp(0.5, 0, -0.5)],
                [s_rot * _exp(-0.5, 0, 0.5), c_rot * _exp(0.5, 0, 0.5)],
            ],
        ),
        # U3(theta, phi, lambda): Rot(lambda, theta, phi) up to a phase that a control would keep
        "U3": _gate(
            3,
            [
                [c_u3, -1 * s_u3 * _exp(0, 0, 1)],
                [s_u3 * _exp(0, 1, 0), c_u3 * _exp(0, 1, 1)],
            ],
        ),
        "SWAP": _gate(0, [[1, 0, 0, 0], [0, 0, 1, 0], [0, 1, 0, 0], [0, 0, 0, 1]]),
    }
    for name, inner in CONTROLLED.items():
        table[name] = _controlled(inner, table)
    return table


CONTROLLED = {
    "CNOT": "X",
    "CY": "Y",
    "CZ": "Z",
    "CRX": "RX",
    "CRY": "RY",
    "CRZ": "RZ",
    "ControlledPhaseShift": "PhaseShift",
    "CRot": "Rot",
    "CU3": "U3",
    "Toffoli": "CNOT",
}

GATES: dict[str, Gate] = _table()
