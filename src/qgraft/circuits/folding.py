"""Inverses of gates, and circuits with more noise but the same meaning.

Zero-noise extrapolation runs a circuit in which every gate G became G G^-1 G, so that its noise
counts three times, and extrapolates to none (Giurgica-Tiron et al., arXiv 2005.10921).
"""

from __future__ import annotations

from dataclasses import replace
from math import pi

from qgraft.circuits.circuit import Circuit, Op, Param
from qgraft.errors import CircuitError

_TURNS = {"S": ("PhaseShift", -pi / 2), "T": ("PhaseShift", -pi / 4), "SX": ("RX", -pi / 2)}
_ORDER = {"Rot": (2, 1, 0), "CRot": (2, 1, 0), "U3": (0, 2, 1), "CU3": (0, 2, 1)}
MAX_FACTOR = 15


def inverse(op: Op) -> Op:
    """Return the gate that undoes `op`, up to a phase of the whole state."""
    if op.gate in _TURNS:
        gate, angle = _TURNS[op.gate]
        return Op(gate, op.qubits, (Param("constant", offset=angle),))
    order = _ORDER.get(op.gate, range(len(op.params)))
    params = (op.params[k] for k in order)
    return replace(op, params=tuple(replace(p, scale=-p.scale, offset=-p.offset) for p in params))


def fold(circuit: Circuit, factor: int) -> Circuit:
    """Return the circuit with every gate applied `factor` times, forwards and back.

    Raises:
        CircuitError: the factor is not odd.
    """
    if not isinstance(factor, int) or factor % 2 != 1 or not 1 <= factor <= MAX_FACTOR:
        raise CircuitError(f"a folding factor is odd, from 1 to {MAX_FACTOR}, got {factor!r}")
    ops = (step for op in circuit.ops for step in (op,) + (inverse(op), op) * ((factor - 1) // 2))
    return replace(circuit, ops=tuple(ops))
