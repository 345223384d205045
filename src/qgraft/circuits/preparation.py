"""Gates that prepare real amplitudes, for devices that start in |0...0>."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from qgraft.circuits.circuit import Op, Param
from qgraft.errors import CircuitError


def prepare_amplitudes(amplitudes: Sequence[float]) -> tuple[Op, ...]:
    """Return RY and CNOT gates that turn |0...0> into real, signed amplitudes `(2**n,)`.

    The amplitudes are normalised. Each qubit is turned by an angle for every state of the qubits
    before it, by a ladder of rotations and CNOTs in Gray-code order: `2**n - 1` rotations
    (Mottonen et al., arXiv quant-ph/0407010).

    Raises:
        CircuitError: the number of amplitudes is no power of two, or all are zero.
    """
    vector = np.asarray(amplitudes, dtype=np.float64)
    n = len(vector).bit_length() - 1
    if vector.ndim != 1 or n < 1 or len(vector) != 2**n:
        raise CircuitError(f"amplitudes must be 2, 4, 8 ... numbers, got shape {vector.shape}")
    norm = np.linalg.norm(vector)
    if not np.isfinite(norm) or norm == 0:
        raise CircuitError("amplitudes must be finite and not all zero")
    levels = [vector / norm]  # below the last level only lengths matter, signs sit in its angles
    while len(levels[-1]) > 1:
        levels.append(np.linalg.norm(levels[-1].reshape(-1, 2), axis=1))
    ops: list[Op] = []
    for qubit, level in enumerate(reversed(levels[:-1])):
        pairs = level.reshape(-1, 2)
        ops += _multiplexed(2 * np.arctan2(pairs[:, 1], pairs[:, 0]), qubit)
    return tuple(ops)


def _multiplexed(angles: np.ndarray, qubit: int) -> list[Op]:
    """Return RY on `qubit` by the angle that the qubits before it select."""
    count = len(angles)
    if count == 1:
        return [Op("RY", (qubit,), (Param("constant", offset=float(angles[0])),))]
    gray = np.arange(count) ^ np.arange(count) >> 1
    common = np.arange(count)[:, None] & gray
    signs = 1 - 2 * (np.bitwise_count(common) % 2).astype(float)
    turns = signs.T @ angles / count
    ops: list[Op] = []
    for step, turn in enumerate(turns, start=1):
        bit = min((step & -step).bit_length() - 1, qubit - 1)
        ops.append(Op("RY", (qubit,), (Param("constant", offset=float(turn)),)))
        ops.append(Op("CNOT", (qubit - 1 - bit, qubit)))
    return ops
