"""The nineteen circuit templates of Sim, Johnson and Aspuru-Guzik (arXiv 1905.10876, figure 2)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from qgraft.circuits.circuit import Circuit, Op, Param, each_z
from qgraft.circuits.gates import GATES
from qgraft.errors import CircuitError

Pairs = Sequence[tuple[int, int]]
Layer = tuple[str, Callable[[int], Pairs] | None]


def _line(n: int) -> Pairs:
    return [(q, q - 1) for q in range(n - 1, 0, -1)]


def _ring(n: int) -> Pairs:
    return [(n - 1, 0), *((q - 1, q) for q in range(n - 1, 0, -1))]


def _ring_back(n: int) -> Pairs:
    return [(n - 1, n - 2), (0, n - 1), *((q, q - 1) for q in range(1, n - 1))]


def _all(n: int) -> Pairs:
    return [(c, t) for c in range(n - 1, -1, -1) for t in range(n - 1, -1, -1) if c != t]


def _even(n: int) -> Pairs:
    return [(q + 1, q) for q in range(0, n - 1, 2)]


def _odd(n: int) -> Pairs:
    return [(q + 1, q) for q in range(1, n - 1, 2)]


_XZ: tuple[Layer, ...] = (("RX", None), ("RZ", None))
_YZ_ALL: tuple[Layer, ...] = (("RY", None), ("RZ", None))
_INNER = "inner "  # a rotation on all but the first and last qubit


def _crossed(gate: str) -> tuple[Layer, ...]:
    return (*_XZ, (gate, _even), *_XZ, (gate, _odd))


def _bricks(gate: str) -> tuple[Layer, ...]:
    return (*_YZ_ALL, (gate, _even), (f"{_INNER}RY", None), (f"{_INNER}RZ", None), (gate, _odd))


def _ringed(gate: str) -> tuple[Layer, ...]:
    return (("RY", None), (gate, _ring), ("RY", None), (gate, _ring_back))


TEMPLATES: dict[int, tuple[Layer, ...]] = {
    1: _XZ,
    2: (*_XZ, ("CNOT", _line)),
    3: (*_XZ, ("CRZ", _line)),
    4: (*_XZ, ("CRX", _line)),
    5: (*_XZ, ("CRZ", _all), *_XZ),
    6: (*_XZ, ("CRX", _all), *_XZ),
    7: _crossed("CRZ"),
    8: _crossed("CRX"),
    9: (("H", None), ("CZ", _line), ("RX", None)),
    10: (("RY", None), ("CZ", _ring), ("RY", None)),
    11: _bricks("CNOT"),
    12: _bricks("CZ"),
    13: _ringed("CRZ"),
    14: _ringed("CRX"),
    15: _ringed("CNOT"),
    16: (*_XZ, ("CRZ", _even), ("CRZ", _odd)),
    17: (*_XZ, ("CRX", _even), ("CRX", _odd)),
    18: (*_XZ, ("CRZ", _ring)),
    19: (*_XZ, ("CRX", _ring)),
}


def sim_circuit(number: int, n_qubits: int = 4, layers: int = 1) -> Circuit:
    """Return template 1 to 19 with every rotation a weight of its own, and all <Z>.

    Circuit 10 repeats its entanglers and last rotations only.

    Raises:
        CircuitError: there is no such template.
    """
    if number not in TEMPLATES:
        raise CircuitError(f"the templates are numbered 1 to 19, got {number!r}")
    if n_qubits < 3:
        raise CircuitError(f"the templates need 3 qubits or more, got {n_qubits!r}")
    ops: list[Op] = []
    at = 0
    for layer in range(layers):
        skipped = 1 if number == 10 and layer else 0
        for name, pairs in TEMPLATES[number][skipped:]:
            gate = name.removeprefix(_INNER)
            qubits = range(1, n_qubits - 1) if name.startswith(_INNER) else range(n_qubits)
            places = [(q,) for q in qubits] if pairs is None else pairs(n_qubits)
            for place in places:
                params = (Param("weight", at),) if GATES[gate].n_params else ()
                at += len(params)
                ops.append(Op(gate, tuple(place), params))
    return Circuit(n_qubits, tuple(ops), each_z(n_qubits))
