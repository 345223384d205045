"""Ansätze: the trainable part of a circuit, and the circuits built from them."""

from __future__ import annotations

from typing import Literal

from qgraft.circuits.circuit import Circuit, Op, Param, each_z
from qgraft.circuits.embeddings import angle_embedding
from qgraft.errors import CircuitError


def strongly_entangling(n_qubits: int, depth: int, first_weight: int = 0) -> tuple[Op, ...]:
    """Return `depth` layers of Rot on every qubit and a ring of CNOTs: `3 n_qubits depth` weights.

    The ring of layer l joins qubit i to `i + (l mod (n_qubits - 1)) + 1`; one qubit has no ring
    (Schuld et al., arXiv 1804.00633; PennyLane's StronglyEntanglingLayers).
    """
    _check_depth(depth)
    ops: list[Op] = []
    for layer in range(depth):
        for qubit in range(n_qubits):
            start = first_weight + 3 * (layer * n_qubits + qubit)
            ops.append(Op("Rot", (qubit,), tuple(Param("weight", start + k) for k in range(3))))
        if n_qubits > 1:
            step = layer % (n_qubits - 1) + 1
            ops += [Op("CNOT", (qubit, (qubit + step) % n_qubits)) for qubit in range(n_qubits)]
    return tuple(ops)


def basic_entangler(
    n_qubits: int, depth: int, rotation: Literal["X", "Y", "Z"] = "X", first_weight: int = 0
) -> tuple[Op, ...]:
    """Return `depth` layers of rotations and a ring of CNOTs: `n_qubits depth` weights.

    Two qubits have a single CNOT, one qubit none (PennyLane's BasicEntanglerLayers).
    """
    _check_depth(depth)
    ring = n_qubits if n_qubits > 2 else n_qubits - 1
    ops: list[Op] = []
    for layer in range(depth):
        ops += _rotations(f"R{rotation}", n_qubits, first_weight + layer * n_qubits)
        ops += [Op("CNOT", (qubit, (qubit + 1) % n_qubits)) for qubit in range(ring)]
    return tuple(ops)


def dressed_chain(n_qubits: int, depth: int, first_weight: int = 0) -> tuple[Op, ...]:
    """Return `depth` layers of an open CNOT chain followed by RY: `n_qubits depth` weights.

    Even pairs first, then odd pairs (Mari et al., arXiv 1912.08278). All gates are real.
    """
    _check_depth(depth)
    pairs = [*range(0, n_qubits - 1, 2), *range(1, n_qubits - 1, 2)]
    ops: list[Op] = []
    for layer in range(depth):
        ops += [Op("CNOT", (qubit, qubit + 1)) for qubit in pairs]
        ops += _rotations("RY", n_qubits, first_weight + layer * n_qubits)
    return tuple(ops)


def surface_circuit(
    n_qubits: int = 5, depth: int = 3, rotation: Literal["X", "Y", "Z"] = "X"
) -> Circuit:
    """Return angle embedding, strongly entangling layers and all <Z> (arXiv 2409.00228)."""
    ops = angle_embedding(n_qubits, rotation) + strongly_entangling(n_qubits, depth)
    return Circuit(n_qubits, ops, each_z(n_qubits))


def dressed_circuit(n_qubits: int = 4, depth: int = 6) -> Circuit:
    """Return Hadamards, RY embedding, the dressed chain and all <Z> (arXiv 1912.08278)."""
    ops = tuple(Op("H", (qubit,)) for qubit in range(n_qubits))
    ops += angle_embedding(n_qubits, "Y") + dressed_chain(n_qubits, depth)
    return Circuit(n_qubits, ops, each_z(n_qubits))


def _rotations(gate: str, n_qubits: int, first_weight: int) -> list[Op]:
    return [Op(gate, (q,), (Param("weight", first_weight + q),)) for q in range(n_qubits)]


def _check_depth(depth: int) -> None:
    if depth < 0:
        raise CircuitError(f"depth must be 0 or more, got {depth}")
