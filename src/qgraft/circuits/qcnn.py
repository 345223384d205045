"""Quantum convolutional networks: convolve neighbours, pool pairs, until few qubits are left.

All blocks of a layer share their weights, so a network on n qubits has log2(n) sets of them
(Cong, Choi and Lukin, arXiv 1810.03787; here with the gates and the order of Kim, Huh and Park,
arXiv 2208.14708). Weights are stored layer by layer, first those of all convolutions, then those
of all poolings.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal, get_args

from qgraft.circuits.blocks import CONVOLUTIONS, POOLINGS, Block, find_block
from qgraft.circuits.circuit import Circuit, Op
from qgraft.circuits.embeddings import embed
from qgraft.errors import CircuitError

Topology = Literal["ring", "chain", "tree"]
Pairs = tuple[tuple[int, int], ...]

# The 22 networks of arXiv 2208.14708 as (convolution, pooling).
PUBLISHED_MODELS: tuple[tuple[str, str], ...] = (
    *((name, pooling) for name in list(CONVOLUTIONS)[:10] for pooling in ("zx", "generalised")),
    ("su4", "trivial"),
    ("cu3", "trivial"),
)


def qcnn_circuit(
    ansatz: str = "su4",
    pooling: str = "generalised",
    embedding: str = "amplitude",
    *,
    n_qubits: int = 8,
    n_read: int = 1,
    topology: Topology = "ring",
) -> Circuit:
    """Return a quantum convolutional network that reads outcome probabilities of a few qubits.

    Args:
        ansatz: convolution block, a name in `CONVOLUTIONS`.
        pooling: pooling block, a name in `POOLINGS`; used by the ring only.
        embedding: how the input enters, see `embed`.
        n_qubits: 2, 4, 8 or 16.
        n_read: qubits read out, `2**n_read` outcomes; 1 as published, more on the ring only.
        topology: `"ring"` as published; `"chain"`, the open chain without pooling, and `"tree"`,
            the hierarchical classifier whose blocks have weights of their own, both of
            arXiv 2108.00661.

    Raises:
        CircuitError: no such block, embedding or topology, or the numbers do not fit.
    """
    convolution = find_block("convolution block", ansatz, CONVOLUTIONS)
    pool = find_block("pooling block", pooling, POOLINGS)
    if n_qubits not in (2, 4, 8, 16):
        raise CircuitError(f"a convolutional network has 2, 4, 8 or 16 qubits, got {n_qubits!r}")
    if topology not in get_args(Topology):
        raise CircuitError(f"unknown topology {topology!r}; known: {', '.join(get_args(Topology))}")
    if not 1 <= n_read <= (n_qubits if topology == "ring" else 1):
        raise CircuitError(
            f"a {topology} of {n_qubits} qubits cannot read {n_read} of them; read 1, or on the "
            f"ring up to {n_qubits}"
        )
    entry = embed(embedding, n_qubits)
    if topology == "ring":
        body, read = _ring(convolution, pool, n_qubits, n_read)
    else:
        sets = chain_pairs(n_qubits) if topology == "chain" else tree_pairs(n_qubits)
        starts = (number * convolution.n_weights for number in range(len(sets)))
        layers = zip(sets, starts, strict=True)
        body = sum((_apply(convolution, pairs, at) for pairs, at in layers), ())
        read = (n_qubits // 2 if topology == "chain" else n_qubits - 1,)
    return Circuit(n_qubits, entry.ops + body, probabilities=read, amplitudes=entry.amplitudes)


def _ring(
    convolution: Block, pool: Block, n_qubits: int, n_read: int
) -> tuple[tuple[Op, ...], tuple[int, ...]]:
    """Return the layers of the ring and the qubits to read out."""
    kept, convolutions, poolings = tuple(range(n_qubits)), [], []
    while len(kept) > 1:
        convolutions.append(ring_pairs(kept))
        if len(kept) // 2 < n_read:
            break
        poolings.append(pool_pairs(kept))
        kept = tuple(target for _, target in poolings[-1])
    ops: tuple[Op, ...] = ()
    first_pool = len(convolutions) * convolution.n_weights
    for layer, pairs in enumerate(convolutions):
        ops += _apply(convolution, pairs, layer * convolution.n_weights)
        if layer < len(poolings):
            ops += _apply(pool, poolings[layer], first_pool + layer * pool.n_weights)
    return ops, kept[:n_read]


def _apply(block: Block, pairs: Pairs, first_weight: int) -> tuple[Op, ...]:
    return tuple(op for pair in pairs for op in block.on(*pair, first_weight))


def ring_pairs(qubits: Sequence[int]) -> Pairs:
    """Return the pairs of one convolution: first with last, then even, then odd neighbours."""
    if len(qubits) == 2:
        return ((qubits[0], qubits[1]),)
    neighbours = list(pairwise(qubits))
    return (qubits[0], qubits[-1]), *neighbours[::2], *neighbours[1::2]


def pool_pairs(qubits: Sequence[int]) -> Pairs:
    """Return (source, kept) of one pooling: the first of each pair is kept, of two the second."""
    if len(qubits) == 2:
        return ((qubits[0], qubits[1]),)
    return tuple(zip(qubits[1::2], qubits[::2], strict=True))


def chain_pairs(n_qubits: int) -> tuple[Pairs, ...]:
    """Return the pairs of each set of weights on the open chain, narrowing to the middle."""
    rows = [
        tuple((q, q + 1) for q in range(first, n_qubits - 1 - first, 2))
        for first in range(n_qubits // 2)
    ]
    return rows[0] + (rows[1] if len(rows) > 1 else ()), *rows[2:]


def tree_pairs(n_qubits: int) -> tuple[Pairs, ...]:
    """Return the pairs of the hierarchical classifier, one set of weights each."""
    qubits, pairs = list(range(n_qubits)), []
    while len(qubits) > 1:
        pairs += zip(qubits[::2], qubits[1::2], strict=True)
        qubits = qubits[1::2]
    return tuple((pair,) for pair in pairs)
