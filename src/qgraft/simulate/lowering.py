"""Lower a circuit to the tables that the native kernels interpret; NumPy and integers only.

A state is a table of rows of sixteen lanes. Up to `LANE_QUBITS_FROM` qubits the lanes are samples
and the rows basis states. With more qubits a table holds one sample and its lanes are four of the
qubits; gates need their qubits in the rows, so a permutation brings qubits in from the lanes.

Three kinds of steps remain: `TURN` (a 2x2 matrix, on rows where a control is set), `BLOCK` (a
4x4 matrix) and `PERMUTE` (a run of CNOT, X and SWAP: an affine map of basis states over GF(2)).
Matrices are products of rotations, rebuilt for every call from the parameters: a *slot*.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Literal, NamedTuple

import numpy as np

from qgraft.circuits.circuit import Circuit, Op, Param, PauliWord, prune, words_of
from qgraft.circuits.gates import GATES
from qgraft.simulate.lanes import LANES
from qgraft.simulate.regroup import (
    Affine,
    Fused,
    Item,
    fuse,
    is_affine,
    is_real,
    is_single,
    parity,
    span,
    take,
)

TURN, BLOCK, PERMUTE = range(3)
RX, RY, RZ, PHASE, CONSTANT = range(5)
Read = Literal["expvals", "probabilities"]

LANE_BITS = LANES.bit_length() - 1
LANE_QUBITS_FROM = 13
LETTERS = {"X": (1, 0, 0), "Y": (1, 1, 1), "Z": (0, 1, 0)}  # flip, sign, power of -i

# parametrised gates as rotations in the order they act: (kind, which parameter)
ROTATIONS = {
    "RX": ((RX, 0),),
    "RY": ((RY, 0),),
    "RZ": ((RZ, 0),),
    "PhaseShift": ((PHASE, 0),),
    "Rot": ((RZ, 0), (RY, 1), (RZ, 2)),
    "U3": ((PHASE, 2), (RY, 0), (PHASE, 1)),
}


class Program(NamedTuple):
    """Tables of one circuit and read-out, as the kernels take them.

    Attributes:
        shape: n_qubits, bits of the row number, whether real, whether amplitudes come in,
            n_permutes, whether lanes are samples.
        gates: `(n_gates, 5)` kind, target and control within the slot (-1: none), source
            (0 constant, 1 weight, 2 angle), index (of the source or of `constants`).
        numbers: `(n_gates, 2)` scale and offset of the angle.
        constants: `(n, 2, 2, 2)` matrices of gates without parameter, re and im last.
        slots: `(n_slots, 6)` first gate, end, size of the matrix, whether per sample, first row
            of its matrix, first row of its trace.
        steps: `(n_steps, 6)` kind, slot or permutation, target bit, control or second bit
            (-1: none), second control bit, unused.
        starts: `(n_qubits + 1,)` where each bit's slots begin in `chains`.
        chains: slots that turn each qubit before the first step.
        affine: `(n_permutations, 2, size)` partial maps: low half, then high half of a number.
        readout: `(n_qubits,)` per bit 0 sum over it, 1 keep it, 2 take sums and differences.
        outputs: `(n_outputs, 3)` row and lane pattern after the read-out, and sign; row -1
            where `words` say more.
        patterns: `(n_patterns, 16)` weights of the lanes.
        words: `(n_words, 4)` output, flipped bits, signed bits, power of -i.
    """

    shape: np.ndarray
    gates: np.ndarray
    numbers: np.ndarray
    constants: np.ndarray
    slots: np.ndarray
    steps: np.ndarray
    starts: np.ndarray
    chains: np.ndarray
    affine: np.ndarray
    readout: np.ndarray
    outputs: np.ndarray
    patterns: np.ndarray
    words: np.ndarray


@lru_cache(maxsize=64)
def lower(circuit: Circuit, read: Read, packed: bool) -> Program:
    """Return the tables of a circuit; `packed` puts four qubits into the lanes.

    What cannot influence the read-out is left out, so its gradient is exactly zero.
    """
    words = words_of(circuit, read)
    ops = prune(circuit.ops, words)
    real = all(map(is_real, ops))
    n = circuit.n_qubits
    tables = _Tables(n, packed)
    if not circuit.amplitudes:
        leading, later = take(ops, is_single, n)
        tables.start(leading)
    else:
        later = list(ops)
    rest: list[Item] = [*(later if real else fuse(later))]
    while rest:
        taken, rest = take(rest, is_affine, n)
        for item in taken:
            tables.permute(item)
        taken, rest = take(rest, is_single, n)
        tables.turn(taken)
        taken, rest = take(rest, lambda item: not is_affine(item) and not is_single(item), n)
        for item in taken:
            tables.join(item)
    return tables.finish(circuit, read, real)


def packs(n_qubits: int, batch: int) -> bool:
    """Tell whether a sample at a time is faster than sixteen at once."""
    return n_qubits >= LANE_QUBITS_FROM or (n_qubits >= 10 and batch <= 2)


@dataclass
class _Tables:
    """The program under construction; `place[qubit]` is the bit where a qubit lies now."""

    n_qubits: int
    packed: bool
    gates: list[tuple[int, ...]] = field(default_factory=list)
    numbers: list[tuple[float, float]] = field(default_factory=list)
    constants: list[np.ndarray] = field(default_factory=list)
    slots: list[tuple[int, ...]] = field(default_factory=list)
    steps: list[tuple[int, ...]] = field(default_factory=list)
    chains: list[list[int]] = field(default_factory=list)
    maps: list[tuple[Affine, Affine]] = field(default_factory=list)
    rows: list[int] = field(default_factory=lambda: [0, 0])

    def __post_init__(self) -> None:
        self.place = list(range(self.n_qubits))[::-1]
        self.chains = [[] for _ in range(self.n_qubits)]
        self.still = Affine(tuple(1 << bit for bit in range(self.n_qubits)))
        self.pending = (self.still, self.still)  # where a row comes from, and where it goes

    @property
    def lane_bits(self) -> int:
        return LANE_BITS if self.packed else 0

    def start(self, ops: Sequence[Item]) -> None:
        for qubit, slots in self._slots_by_qubit(ops).items():
            self.chains[self.place[qubit]] = slots

    def permute(self, item: Item) -> None:
        bits = [self.place[qubit] for qubit in item.qubits]
        assert isinstance(item, Op)
        if item.gate == "SWAP":
            self._relabel(*item.qubits)
        elif item.gate == "X":
            self._compose(replace(self.still, shift=1 << bits[0]))
        else:
            columns = list(self.still.columns)
            columns[bits[0]] |= 1 << bits[1]
            self._compose(Affine(tuple(columns)))

    def turn(self, ops: Sequence[Item]) -> None:
        """Apply single-qubit gates, first those whose qubits lie in the rows."""
        slots = self._slots_by_qubit(ops)
        outside = [qubit for qubit in slots if self.place[qubit] < self.lane_bits]
        for qubit in (*(q for q in slots if q not in outside), *outside):
            if qubit == (outside or [-1])[0]:
                self._bring_in(outside)
            for slot in slots[qubit]:
                self._step(TURN, slot, (qubit,))

    def join(self, item: Item) -> None:
        """Apply a controlled gate or a fused block."""
        self._bring_in([q for q in item.qubits if self.place[q] < self.lane_bits], item.qubits)
        if isinstance(item, Fused):
            self._step(BLOCK, self._slot(item.ops, item.qubits), item.qubits)
        else:
            target = item.qubits[-1]
            self._step(TURN, self._slot([item], (target,)), (target, *item.qubits[:-1]))

    def _slots_by_qubit(self, ops: Sequence[Item]) -> dict[int, list[int]]:
        """Return the slots of each qubit, one for every run that is or is not per sample."""
        runs: dict[int, list[list[Op]]] = {}
        for op in ops:
            assert isinstance(op, Op)
            of_qubit = runs.setdefault(op.qubits[0], [])
            if not of_qubit or of_qubit[-1][0].uses("angle") != op.uses("angle"):
                of_qubit.append([])
            of_qubit[-1].append(op)
        return {q: [self._slot(run, (q,)) for run in of] for q, of in runs.items()}

    def _slot(self, ops: Iterable[Op], qubits: tuple[int, ...]) -> int:
        first, size = len(self.gates), 2 ** len(qubits)
        per_sample = False
        for op in ops:
            per_sample |= op.uses("angle")
            self._add_gates(op, qubits)
        row, trace = self.rows
        self.slots.append((first, len(self.gates), size, per_sample, row, trace))
        self.rows = [row + 2 * size * size, trace + size * size]
        return len(self.slots) - 1

    def _add_gates(self, op: Op, qubits: tuple[int, ...]) -> None:
        name, controls = op.gate, 0
        while GATES[name].controlled:
            name, controls = GATES[name].controlled, controls + 1
        target = qubits.index(op.qubits[-1])
        control = qubits.index(op.qubits[0]) if controls and len(qubits) > 1 else -1
        if name == "SWAP":
            for pair in (op.qubits, op.qubits[::-1], op.qubits):
                self._add_gates(Op("CNOT", pair), qubits)
        elif name in ROTATIONS:
            for kind, position in ROTATIONS[name]:
                param = op.params[position]
                if param != Param("constant"):
                    source = ("constant", "weight", "angle").index(param.source)
                    self.gates.append((kind, target, control, source, param.index))
                    scale = param.scale if source else 0.0
                    self.numbers.append((scale, param.offset))
        elif name != "I":
            matrix = GATES[name].matrix()
            self.gates.append((CONSTANT, target, control, 0, len(self.constants)))
            self.numbers.append((0.0, 0.0))
            self.constants.append(np.stack([np.real(matrix), np.imag(matrix)], axis=-1))

    def _step(self, kind: int, number: int, qubits: Sequence[int]) -> None:
        self._flush()
        bits = [self.place[qubit] - self.lane_bits for qubit in qubits]
        self.steps.append((kind, number, *bits, *[-1] * (3 - len(bits))))

    def _compose(self, element: Affine) -> None:
        source, target = self.pending
        self.pending = (source.after(element), element.after(target))

    def _flush(self) -> None:
        if self.pending[0] != self.still:
            self.steps.append((PERMUTE, len(self.maps), -1, -1, -1))
            self.maps.append(self.pending)
            self.pending = (self.still, self.still)

    def _relabel(self, first: int, second: int) -> None:
        self.place[first], self.place[second] = self.place[second], self.place[first]

    def _bring_in(self, outside: Sequence[int], keep: Sequence[int] = ()) -> None:
        """Exchange qubits in the lanes with those of the lowest bits of the row number."""
        free = [
            qubit
            for qubit in sorted(range(self.n_qubits), key=self.place.__getitem__)
            if self.place[qubit] >= self.lane_bits and qubit not in keep
        ]
        for qubit, other in zip(outside, free, strict=False):
            low, high = 1 << self.place[qubit], 1 << self.place[other]
            columns = [low + high - c if c in (low, high) else c for c in self.still.columns]
            self._compose(Affine(tuple(columns)))
            self._relabel(qubit, other)

    def finish(self, circuit: Circuit, read: Read, is_real: bool) -> Program:
        words = words_of(circuit, read)
        foldable = read == "expvals" and all(p == "Z" for word in words for p, _ in word)
        if not foldable:
            self._flush()
        measure = self._measure_words if read == "expvals" else self._measure_outcomes
        readout, outputs, patterns, flips = measure(circuit, self.pending[1], is_real)
        starts = np.cumsum([0, *map(len, self.chains)])
        halves = [(*s.halves(), *t.halves()) for s, t in self.maps]
        width = 2 ** ((self.n_qubits + 1) // 2)
        affine = np.zeros((len(halves), 4, width), dtype=np.int64)
        for k, parts in enumerate(halves):
            for part, table in enumerate(parts):
                affine[k, part, : len(table)] = table
        row_bits = self.n_qubits - self.lane_bits
        shape = [self.n_qubits, row_bits, is_real, circuit.amplitudes, self.packed, len(halves)]
        return Program(
            shape=_integers([*shape, *self.rows, circuit.n_angles], ()),
            gates=_integers(self.gates, (5,)),
            numbers=np.array(self.numbers, dtype=np.float64).reshape(-1, 2),
            constants=np.array(self.constants, dtype=np.float64).reshape(-1, 2, 2, 2),
            slots=_integers(self.slots, (6,)),
            steps=_integers(self.steps, (5,)),
            starts=_integers(starts, ()),
            chains=_integers([slot for chain in self.chains for slot in chain], ()),
            affine=affine,
            readout=_integers(readout, ()),
            outputs=_integers(outputs, (3,)),
            patterns=np.array(patterns, dtype=np.float64).reshape(-1, LANES),
            words=_integers(flips, (4,)),
        )

    def _measure_words(
        self, circuit: Circuit, target: Affine, is_real: bool
    ) -> tuple[list[int], list[tuple[int, ...]], list[np.ndarray], list[tuple[int, ...]]]:
        """Read sums of |amplitude|^2 with the signs of each word; other words one by one."""
        masks = [self._masks(word) for word in circuit.observables]
        signs: list[tuple[int, int] | None] = []
        for flips, mask, _ in masks:
            moved = [parity(mask & column) << b for b, column in enumerate(target.columns)]
            sign = 1 - 2 * parity(mask & target.shift)
            signs.append(None if flips else (sum(moved), sign))
        used = 0
        for pair in signs:
            used |= pair[0] if pair else 0
        readout = [2 * (used >> bit & 1) for bit in range(self.n_qubits)]
        lanes = np.arange(LANES)
        outputs, patterns = [], []
        for k, pair in enumerate(signs):
            mask, sign = pair or (0, 1)
            outputs.append((self._row(mask, readout) if pair else -1, k, sign))
            low = mask & (2**self.lane_bits - 1)
            patterns.append(1.0 - 2.0 * np.array([parity(lane & low) for lane in lanes]))
        flips = [(k, *m) for k, m in enumerate(masks) if m[0] and not (is_real and m[2] % 2)]
        return readout, outputs, patterns, flips

    def _measure_outcomes(
        self, circuit: Circuit, target: Affine, is_real: bool
    ) -> tuple[list[int], list[tuple[int, ...]], list[np.ndarray], list[tuple[int, ...]]]:
        """Read the sum of |amplitude|^2 of every outcome of the measured qubits."""
        bits = [self.place[qubit] for qubit in circuit.probabilities or ()][::-1]
        readout = [int(bit in bits) for bit in range(self.n_qubits)]
        numbers = span([1 << bit for bit in bits], 0)
        kept = sum(1 << bit for bit in bits if bit < self.lane_bits)
        lanes = np.arange(LANES)
        low = numbers & (2**self.lane_bits - 1)
        outputs = [
            (self._row(int(m), readout), int(p), 1) for m, p in zip(numbers, low, strict=True)
        ]
        patterns = [1.0 * ((lanes & kept) == p) for p in range(2**self.lane_bits)]
        return readout, outputs, patterns, []

    def _row(self, mask: int, readout: Sequence[int]) -> int:
        """Return the number made of the kept row bits of a mask."""
        kept = [bit for bit in range(self.lane_bits, self.n_qubits) if readout[bit]]
        return sum((mask >> bit & 1) << k for k, bit in enumerate(kept))

    def _masks(self, word: PauliWord) -> tuple[int, int, int]:
        flips = signs = power = 0
        for letter, qubit in word:
            flip, sign, factor = LETTERS[letter]
            flips |= flip << self.place[qubit]
            signs |= sign << self.place[qubit]
            power += factor
        return flips, signs, power % 4


def _integers(values: object, tail: tuple[int, ...]) -> np.ndarray:
    return np.array(values, dtype=np.int64).reshape(-1, *tail)
