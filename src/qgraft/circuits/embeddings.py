"""Embeddings: how numbers enter a circuit."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal, NamedTuple

from qgraft.circuits.circuit import Op, Param
from qgraft.errors import CircuitError

Blocks = tuple[tuple[int, ...], ...]

# Which of eight qubits share a block of the hybrid embeddings, by size of the block and number of
# the arrangement (Hur, Kim and Park, arXiv 2108.00661).
ARRANGEMENTS: dict[int, tuple[Blocks, ...]] = {
    4: (
        ((0, 1, 2, 3), (4, 5, 6, 7)),
        ((0, 2, 4, 6), (1, 3, 5, 7)),
        ((0, 1, 6, 7), (2, 3, 4, 5)),
        ((0, 3, 4, 7), (1, 2, 5, 6)),
    ),
    2: (
        ((0, 1), (2, 3), (4, 5), (6, 7)),
        ((0, 4), (1, 5), (2, 6), (3, 7)),
        ((0, 7), (1, 6), (2, 5), (3, 4)),
        ((0, 2), (1, 3), (4, 6), (5, 7)),
    ),
}
_PLAIN = ("amplitude", "angle", "compact-angle")
EMBEDDINGS = (
    *_PLAIN,
    *(f"hybrid-{kind}-{size}-{n}" for kind in ("direct", "angle") for size in (4, 2)
      for n in (1, 2, 3, 4)),
)  # fmt: skip


class Embedding(NamedTuple):
    """How an input of `width` numbers enters a circuit.

    Attributes:
        width: numbers taken in.
        ops: gates that take angles; empty where amplitudes come in.
        amplitudes: the circuit starts from amplitudes.
        blocks: groups of qubits whose amplitudes are normalised one by one, if any.
    """

    width: int
    ops: tuple[Op, ...] = ()
    amplitudes: bool = False
    blocks: Blocks = ()


def embed(name: str, n_qubits: int) -> Embedding:
    """Return the embedding `name`, one of `EMBEDDINGS`.

    `amplitude` takes `2**n_qubits` signed numbers and normalises them, `angle` one RY angle per
    qubit, `compact-angle` one RX and one RY angle per qubit. `hybrid-direct-<size>-<arrangement>`
    puts `2**size` amplitudes on each block of 4 or 2 qubits, `hybrid-angle-...` `2**size - 1`
    angles; both need eight qubits (arXiv 2108.00661).

    Raises:
        CircuitError: there is no such embedding, or not on so many qubits.
    """
    if name not in EMBEDDINGS:
        raise CircuitError(
            f"unknown embedding {name!r}; use {', '.join(_PLAIN)}, hybrid-direct-4-1 to -4-4 or "
            "-2-1 to -2-4, or hybrid-angle-... likewise"
        )
    if name == "amplitude":
        return Embedding(2**n_qubits, amplitudes=True)
    if name == "angle":
        return Embedding(n_qubits, angle_embedding(n_qubits, "Y"))
    if name == "compact-angle":
        return Embedding(2 * n_qubits, compact_angle_embedding(n_qubits))
    if n_qubits != 8:
        raise CircuitError(f"{name} arranges eight qubits, this circuit has {n_qubits}")
    size, arrangement = map(int, re.findall(r"\d", name))
    blocks = ARRANGEMENTS[size][arrangement - 1]
    if name.startswith("hybrid-direct"):
        return Embedding(len(blocks) * 2**size, (), True, blocks)
    return Embedding(len(blocks) * (2**size - 1), hybrid_angle_embedding(blocks))


def angle_embedding(
    n_qubits: int, rotation: Literal["X", "Y", "Z"] = "X", first_angle: int = 0
) -> tuple[Op, ...]:
    """Return one rotation by an angle on every qubit: `n_qubits` angles, no weights.

    PennyLane's AngleEmbedding. On |0...0> the X and Y rotations give the same model once a
    layer of Rot follows, and the Z rotation carries no information (arXiv 2409.00228).
    """
    if rotation not in ("X", "Y", "Z"):
        raise CircuitError(f"rotation must be 'X', 'Y' or 'Z', got {rotation!r}")
    return tuple(
        Op(f"R{rotation}", (q,), (Param("angle", first_angle + q),)) for q in range(n_qubits)
    )


def compact_angle_embedding(n_qubits: int) -> tuple[Op, ...]:
    """Return RX by the first `n_qubits` angles and RY by the next: two numbers per qubit.

    Source: arXiv 2108.00661, "dense qubit encoding".
    """
    return angle_embedding(n_qubits, "X") + angle_embedding(n_qubits, "Y", n_qubits)


def hybrid_angle_embedding(blocks: Sequence[Sequence[int]]) -> tuple[Op, ...]:
    """Return the hybrid angle embedding: `2**size - 1` angles on each block of qubits.

    The first qubit of a block is turned by one angle, the second by one angle for each value of
    the first, and every later one by a ladder of RY and CNOTs in Gray-code order whose controls
    are the qubits before it (arXiv 2108.00661).
    """
    ops: list[Op] = []
    at = 0
    for block in blocks:
        for place in range(len(block)):
            ops += _multiplexed(block, place, at)
            at += 2**place
    return tuple(ops)


def _multiplexed(block: Sequence[int], place: int, first_angle: int) -> list[Op]:
    """Return the rotations of one qubit of a block: `2**place` angles."""
    angles = [(Param("angle", first_angle + k),) for k in range(2**place)]
    qubit = block[place]
    if place == 0:
        return [Op("RY", (qubit,), angles[0])]
    if place == 1:
        flip, pair = Op("X", (block[0],)), (block[0], qubit)
        return [flip, Op("CRY", pair, angles[0]), flip, Op("CRY", pair, angles[1])]
    ops = []
    for step, angle in enumerate(angles, start=1):
        trailing_zeros = (step & -step).bit_length() - 1
        control = block[max(0, place - 1 - trailing_zeros)]
        ops += [Op("RY", (qubit,), angle), Op("CNOT", (control, qubit))]
    return ops
