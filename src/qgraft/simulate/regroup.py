"""Regroup a circuit before it is lowered: permutations as bit maps, two-qubit runs as one gate."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from qgraft.circuits.circuit import Op, Source
from qgraft.circuits.gates import GATES

AFFINE = ("CNOT", "X", "SWAP")
BLOCK_COST = 24  # what the gates of a block must cost singly for one 4x4 matrix to pay


@dataclass(frozen=True)
class Affine:
    """A map of basis states, `i -> shift ^ (xor of the columns of the bits set in i)`."""

    columns: tuple[int, ...]
    shift: int = 0

    def linear(self, number: int) -> int:
        """Map a number without the shift."""
        out = 0
        for bit, column in enumerate(self.columns):
            out ^= column * (number >> bit & 1)
        return out

    def after(self, first: Affine) -> Affine:
        """Return the map that applies `first`, then this one."""
        shift = self.shift ^ self.linear(first.shift)
        return Affine(tuple(map(self.linear, first.columns)), shift)

    def halves(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the map of the low and of the high half of the bits, to be joined by xor."""
        low = len(self.columns) // 2
        return span(self.columns[:low], 0), span(self.columns[low:], self.shift)


def span(columns: Sequence[int], shift: int) -> np.ndarray:
    """Return the xor of the columns of every subset of bits, starting from the shift."""
    table = np.array([shift], dtype=np.int64)
    for column in columns:
        table = np.concatenate([table, table ^ column])
    return table


@dataclass(frozen=True)
class Fused:
    """Operations on two qubits that become one matrix."""

    qubits: tuple[int, ...]
    ops: tuple[Op, ...]

    def uses(self, source: Source) -> bool:
        """Tell whether any parameter comes from `source`."""
        return any(op.uses(source) for op in self.ops)


Item = Op | Fused
T = TypeVar("T", bound=Item)


def take(
    items: Sequence[T], wanted: Callable[[Item], bool], n_qubits: int
) -> tuple[list[T], list[T]]:
    """Split off the wanted items that no earlier, unwanted one holds back."""
    taken: list[T] = []
    rest: list[T] = []
    blocked: set[int] = set()
    for position, item in enumerate(items):
        if len(blocked) == n_qubits:
            return taken, rest + list(items[position:])
        if wanted(item) and not blocked & set(item.qubits):
            taken.append(item)
        else:
            rest.append(item)
            blocked |= set(item.qubits)
    return taken, rest


def is_single(item: Item) -> bool:
    """Tell whether the item acts on one qubit and is not a flip."""
    return len(item.qubits) == 1 and not is_affine(item)


def is_affine(item: Item) -> bool:
    """Tell whether the item only permutes basis states."""
    return isinstance(item, Op) and item.gate in AFFINE


def is_real(op: Op) -> bool:
    """Tell whether the matrix is real, whatever the parameters that vary."""
    gate = GATES[op.gate]
    if gate.is_real:
        return True
    fixed = all(param.source == "constant" for param in op.params)
    return fixed and not np.imag(gate.matrix([param.offset for param in op.params])).any()


def fuse(ops: Sequence[Op]) -> list[Item]:
    """Join runs of operations on the same two qubits where one 4x4 matrix is cheaper."""
    runs: list[list[Op]] = []
    current: dict[int, list[Op]] = {}
    for op in ops:
        runs_here = [current.get(qubit) for qubit in op.qubits]
        first = runs_here[0]
        if first and all(run is first for run in runs_here):
            first.append(op)
            continue
        joined: list[Op] = []
        for run in runs_here if len(op.qubits) == 2 else ():
            if run and all(len(before.qubits) == 1 for before in run):
                joined += run
                run.clear()
        joined.append(op)
        runs.append(joined)
        current |= dict.fromkeys(op.qubits, joined)
    items: list[Item] = []
    for run in runs:
        qubits = tuple(dict.fromkeys(qubit for op in run for qubit in op.qubits))
        is_shared = not any(op.uses("angle") for op in run)
        worth = len(qubits) == 2 and is_shared and _cost(run) > BLOCK_COST
        items += [Fused(qubits, tuple(run))] if worth else run
    return items


def _cost(run: Sequence[Op]) -> int:
    """Return multiplications per amplitude when the gates are applied singly."""
    cost, turned = 0, set()
    for op in run:
        if len(op.qubits) == 1:
            cost += 0 if op.qubits[0] in turned else 8
            turned.add(op.qubits[0])
        else:
            cost += 2 if op.gate in AFFINE else 4
            turned.clear()
    return cost


def parity(number: int) -> int:
    """Return 1 for an odd number of set bits, else 0."""
    return int(number).bit_count() % 2
