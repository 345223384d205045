"""Embeddings: how numbers enter a circuit."""

from __future__ import annotations

from typing import Literal

from qgraft.circuits.circuit import Op, Param
from qgraft.errors import CircuitError


def angle_embedding(n_qubits: int, rotation: Literal["X", "Y", "Z"] = "X") -> tuple[Op, ...]:
    """Return one rotation by an angle on every qubit: `n_qubits` angles, no weights.

    PennyLane's AngleEmbedding. On |0...0> the X and Y rotations give the same model once a
    layer of Rot follows, and the Z rotation carries no information (arXiv 2409.00228).
    """
    if rotation not in ("X", "Y", "Z"):
        raise CircuitError(f"rotation must be 'X', 'Y' or 'Z', got {rotation!r}")
    return tuple(Op(f"R{rotation}", (q,), (Param("angle", q),)) for q in range(n_qubits))
