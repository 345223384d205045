"""Compile a circuit into a few array operations; NumPy only, nothing is computed yet.

The operations are regrouped into three kinds of steps, each pulled from the circuit as long as
its qubits are free: `Layer` (one 2x2 matrix on every qubit, the same for all samples), `Fixed` (a
permutation of basis states with phases: CNOT, X, SWAP, CZ ...) and `Apply` (any other gate). All
matrices of one kind come from one affine map of the parameters and one cosine (`Trig`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from math import ceil, pi
from typing import Literal

import numpy as np

from qgraft.circuits.circuit import Circuit, Op, Param, PauliWord, prune, words_of
from qgraft.circuits.gates import GATES, Entry

Read = Literal["state", "expvals", "probabilities"]

COLLAPSE_UP_TO = 6  # qubits; beyond, a full matrix costs more than the gates
BLOCK = 5  # qubits multiplied into one matrix within a layer
SIGNS_UP_TO = 6  # qubits; beyond, signs are applied in two halves for speed and precision


@dataclass(frozen=True, eq=False)
class Trig:
    """Numbers `scale * prod_f cos(offset_f + weights . W_f + angles . A_f)`, f = 0, 1.

    Attributes:
        scale: `(m,)`.
        offset: `(2 m,)`, the first factors then the second ones.
        weights: `(2 m, n_weights)`.
        angles: `(2 m, n_angles)`.
        shape: the shape of the result, `m` numbers.
    """

    scale: np.ndarray
    offset: np.ndarray
    weights: np.ndarray
    angles: np.ndarray
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Layer:
    """Entry `number` of the plan's layers; `blocks` are the qubit blocks it touches."""

    number: int
    blocks: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Fixed:
    """`new[j] = phase[j] * old[index[j]]` on the `2**n_qubits` amplitudes."""

    index: np.ndarray
    phase: np.ndarray


@dataclass(frozen=True)
class Apply:
    """Matrix `number` of the family `(size, per_sample)` applied to `qubits`."""

    size: int
    per_sample: bool
    number: int
    qubits: tuple[int, ...]


Step = Layer | Fixed | Apply


@dataclass(frozen=True, eq=False)
class Plan:
    """What the simulator does, in order.

    Attributes:
        product: cosines and sines `(batch, n_qubits, 2)` of the product state the circuit
            starts from, or None when the input is the amplitudes themselves.
        runs: steps that follow each other; a run marked True becomes one matrix first.
        slots: for every layer and qubit a chain of numbers into `families[2, False]`,
            `(chain, n_layers, n_qubits)`.
        families: the matrices by `(size, per_sample)`.
        blocks: sizes of the qubit blocks of a layer.
        is_real: no complex number occurs.
        signs: `(2**n_qubits, n_words)` signs of diagonal Pauli words, in one or two factors.
        words: `(index, phase)` of every word when some are not diagonal.
    """

    n_qubits: int
    product: Trig | None
    runs: tuple[tuple[bool, tuple[Step, ...]], ...]
    slots: np.ndarray
    families: dict[tuple[int, bool], Trig]
    blocks: tuple[int, ...]
    is_real: bool
    signs: tuple[np.ndarray, ...]
    words: tuple[tuple[np.ndarray, np.ndarray], ...]


@lru_cache(maxsize=256)
def compile_circuit(circuit: Circuit, read: Read) -> Plan:
    """Return the plan that computes one kind of read-out.

    What cannot influence the read-out is left out, so its gradient is exactly zero.
    """
    n, words = circuit.n_qubits, () if read == "state" else words_of(circuit, read)
    ops = circuit.ops if read == "state" else prune(circuit.ops, words)
    half_turns: dict[int, Param] = {}
    if not circuit.amplitudes:
        half_turns, ops = take_product(ops)
    steps, chains, members = _schedule(ops, n)
    index = np.arange(2**n)
    is_diagonal = all(letter == "Z" for word in words for letter, _ in word)
    last = steps[-1] if steps and read == "expvals" and is_diagonal else None
    if isinstance(last, Fixed) and n <= SIGNS_UP_TO:
        steps.pop()
        index = np.argsort(last.index)  # measuring permuted signs instead of permuting the state
    is_real = all(_is_real(op) for op in ops)
    return Plan(
        n_qubits=n,
        product=None if circuit.amplitudes else _product_trig(half_turns, circuit),
        runs=_runs(steps, n),
        slots=_slots(chains, n),
        families={key: gate_matrices(list(of), circuit, is_real) for key, of in members.items()},
        blocks=_blocks(n),
        is_real=is_real,
        signs=_signs(words, n, index) if is_diagonal else (),
        words=() if is_diagonal else tuple(_word(word, n) for word in words),
    )


def _is_real(op: Op) -> bool:
    matrix = _constant_matrix(op)
    return GATES[op.gate].is_real if matrix is None else not np.imag(matrix).any()


def _constant_matrix(op: Op) -> np.ndarray | None:
    """Return the matrix of an operation without variables, rounding noise set to zero."""
    if op.uses("angle") or op.uses("weight"):
        return None
    return _clean(GATES[op.gate].matrix([param.offset for param in op.params]))


def _clean(matrix: np.ndarray) -> np.ndarray:
    """Set rounding noise to zero: cos(pi/2) is meant to be nothing."""
    parts = np.stack([np.real(matrix), np.imag(matrix)])
    parts[abs(parts) < 1e-15] = 0.0
    return parts[0] + 1j * parts[1]


def take_free(ops: list[Op], wanted: Callable[[Op], bool], n: int) -> tuple[list[Op], list[Op]]:
    """Split off the wanted operations that no earlier, unwanted one holds back."""
    taken: list[Op] = []
    rest: list[Op] = []
    blocked: set[int] = set()
    for k, op in enumerate(ops):
        if len(blocked) == n:
            return taken, rest + ops[k:]
        if blocked.isdisjoint(op.qubits) and wanted(op):
            taken.append(op)
        else:
            rest.append(op)
            blocked.update(op.qubits)
    return taken, rest


def take_product(ops: tuple[Op, ...]) -> tuple[dict[int, Param], tuple[Op, ...]]:
    """Move leading H, RX and RY by angles into a product state of RY rotations of |0>.

    H|0> = RY(pi/2)|0>, RY(t) RY(pi/2) = RY(t + pi/2), RX(t)|0> = PhaseShift(-pi/2) RY(t)|0>: all
    without a stray phase, and the state starts real.
    """
    rotations: dict[int, Param] = {}
    closed: set[int] = set()
    rest: list[Op] = []
    for op in ops:
        qubit, before = op.qubits[0], rotations.get(op.qubits[0])
        turned = before.offset if before else 0.0
        first = len(op.qubits) == 1 and qubit not in closed
        if first and op.gate == "H" and before is None:
            rotations[qubit] = Param("constant", offset=pi / 2)
            continue
        closed |= set(op.qubits)
        if first and op.gate == "RY" and op.uses("angle"):
            rotations[qubit] = replace(op.params[0], offset=op.params[0].offset + turned)
        elif first and op.gate == "RX" and op.uses("angle") and before is None:
            rotations[qubit] = op.params[0]
            rest.append(Op("PhaseShift", op.qubits, (Param("constant", offset=-pi / 2),)))
        else:
            rest.append(op)
    return rotations, tuple(rest)


def _schedule(
    ops: tuple[Op, ...], n: int
) -> tuple[list[Step], list[list[list[int]]], dict[tuple[int, bool], dict[Op, int]]]:
    """Group the operations into steps; equal gates with equal parameters share one matrix."""
    steps: list[Step] = []
    chains: list[list[list[int]]] = []  # layer, qubit, position in the chain
    members: dict[tuple[int, bool], dict[Op, int]] = {}

    def number(op: Op) -> int:
        family = members.setdefault((2 ** len(op.qubits), op.uses("angle")), {})
        return family.setdefault(replace(op, qubits=tuple(range(len(op.qubits)))), len(family))

    rest = list(ops)
    while rest:
        taken, rest = take_free(rest, _is_fixed, n)
        if taken:
            steps.append(_fixed(taken, n))
        taken, rest = take_free(rest, _is_layered, n)
        if taken:
            layer: list[list[int]] = [[] for _ in range(n)]
            for op in sorted(taken, key=lambda op: op.qubits):
                layer[op.qubits[0]].append(number(op))
            steps.append(Layer(len(chains), _touched(layer, n)))
            chains.append(layer)
            continue
        taken, rest = take_free(rest, lambda op: not _is_fixed(op) and not _is_layered(op), n)
        for op in taken:
            steps.append(Apply(2 ** len(op.qubits), op.uses("angle"), number(op), op.qubits))
    if any(not chain for layer in chains for chain in layer) or _uneven(chains):
        identity = number(Op("I", (0,)))
        longest = max(len(chain) for layer in chains for chain in layer)
        chains = [[c + [identity] * (longest - len(c)) for c in layer] for layer in chains]
    return steps, chains, members


def _uneven(chains: list[list[list[int]]]) -> bool:
    return len({len(chain) for layer in chains for chain in layer}) > 1


def _touched(layer: list[list[int]], n: int) -> tuple[int, ...]:
    ends = np.cumsum(_blocks(n))
    return tuple(
        block
        for block, (end, size) in enumerate(zip(ends, _blocks(n), strict=True))
        if any(layer[qubit] for qubit in range(end - size, end))
    )


def _blocks(n: int) -> tuple[int, ...]:
    """Return the sizes of the blocks of qubits that a layer multiplies at once."""
    count = 1 if n <= COLLAPSE_UP_TO else ceil(n / BLOCK)
    return tuple(n // count + (k < n % count) for k in range(count))


def _slots(chains: list[list[list[int]]], n: int) -> np.ndarray:
    """Return `(chain, n_layers, n_qubits)`, first gate of every chain first."""
    if not chains:
        return np.zeros((0, 0, n), dtype=np.int64)
    return np.array(chains, dtype=np.int64).transpose(2, 0, 1)


def _runs(steps: list[Step], n: int) -> tuple[tuple[bool, tuple[Step, ...]], ...]:
    """Join steps that are the same for all samples; worth one matrix when they hold any gate."""
    runs: list[tuple[bool, list[Step]]] = []
    for step in steps:
        shared = not (isinstance(step, Apply) and step.per_sample)
        if not runs or runs[-1][0] != shared:
            runs.append((shared, []))
        runs[-1][1].append(step)
    return tuple(
        (
            shared and n <= COLLAPSE_UP_TO and any(not isinstance(s, Fixed) for s in run),
            tuple(run),
        )
        for shared, run in runs
    )


def _is_fixed(op: Op) -> bool:
    matrix = _constant_matrix(op)
    return matrix is not None and bool(((matrix != 0).sum(axis=1) == 1).all())


def _is_layered(op: Op) -> bool:
    return len(op.qubits) == 1 and not op.uses("angle")


def _fixed(ops: list[Op], n: int) -> Fixed:
    """Multiply permutation-like gates into one index and one phase per amplitude."""
    index, phase = np.arange(2**n), np.ones(2**n, dtype=complex)
    for op in ops:
        matrix = _constant_matrix(op)
        assert matrix is not None
        source = (matrix != 0).argmax(axis=1)
        bits = [n - 1 - qubit for qubit in op.qubits]
        row = sum((np.arange(2**n) >> bit & 1) << k for k, bit in enumerate(reversed(bits)))
        moved = np.arange(2**n)
        for k, bit in enumerate(reversed(bits)):
            moved = moved & ~(1 << bit) | (source[row] >> k & 1) << bit
        index, phase = index[moved], matrix[row, source[row]] * phase[moved]
    return Fixed(index, phase)


def _signs(words: tuple[PauliWord, ...], n: int, index: np.ndarray) -> tuple[np.ndarray, ...]:
    """Return the eigenvalues of Z words over basis states, split in two halves for many qubits."""
    if n <= SIGNS_UP_TO:
        return (_eigenvalues(words, range(n))[index],)
    low = n // 2
    return _eigenvalues(words, range(n - low)), _eigenvalues(words, range(n - low, n))


def _eigenvalues(words: tuple[PauliWord, ...], qubits: range) -> np.ndarray:
    state = np.arange(2 ** len(qubits))
    signs = np.ones((len(state), len(words)))
    for k, word in enumerate(words):
        for _, qubit in word:
            if qubit in qubits:
                signs[:, k] *= 1 - 2 * (state >> (qubits[-1] - qubit) & 1)
    return signs


def _word(word: PauliWord, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Return `(index, phase)` of a Pauli word: `(P psi)[j] = phase[j] * psi[index[j]]`."""
    step = _fixed([Op(letter, (qubit,)) for letter, qubit in word], n)
    return step.index, step.phase


def _product_trig(rotations: dict[int, Param], circuit: Circuit) -> Trig:
    """Return (cos t/2, sin t/2) of every qubit's starting rotation."""
    column = [row[0] for row in GATES["RY"].rows]
    still = Param("constant")
    entries = [
        (entry, (rotations.get(qubit, still),))
        for qubit in range(circuit.n_qubits)
        for entry in column
    ]
    return _trig(entries, circuit, (circuit.n_qubits, 2), is_real=True)


def gate_matrices(ops: list[Op], circuit: Circuit, is_real: bool) -> Trig:
    """Return matrices `(n_ops, size, size)`, with a last axis (re, im) unless real."""
    entries = [(e, op.params) for op in ops for row in GATES[op.gate].rows for e in row]
    size = 2 ** len(ops[0].qubits)
    shape = (len(ops), size, size) if is_real else (len(ops), size, size, 2)
    return _trig(entries, circuit, shape, is_real)


def _trig(
    entries: list[tuple[Entry, tuple[Param, ...]]],
    circuit: Circuit,
    shape: tuple[int, ...],
    is_real: bool,
) -> Trig:
    parts = 1 if is_real else 2
    m = len(entries) * parts
    n_angles = 0 if circuit.amplitudes else circuit.n_angles
    scale, offset = np.zeros(m), np.zeros((2, m))
    weights, angles = np.zeros((2, m, circuit.n_weights)), np.zeros((2, m, n_angles))
    for k, (entry, params) in enumerate(entries):
        at = range(k * parts, k * parts + parts)
        number = complex(entry.scale)
        scale[at] = number.real
        if not is_real:
            # a phased entry has a real scale; cos(x - pi/2) is the sine of its imaginary part
            scale[at[1]] = number.real if entry.phase else number.imag
            offset[1, at[1]] = -pi / 2 if entry.phase else 0.0
        if entry.cosine:
            offset[0, at] += entry.shift
        for factor, coefficients in enumerate((entry.cosine, entry.phase)):
            for coefficient, param in zip(coefficients, params, strict=False):
                offset[factor, at] += coefficient * param.offset
                target = {"weight": weights, "angle": angles}.get(param.source)
                if target is not None:
                    target[factor, at, param.index] += coefficient * param.scale
    still = ~(weights.any(axis=2) | angles.any(axis=2))
    known = np.real(_clean(np.where(still, np.cos(offset), 1.0).prod(axis=0)))
    return Trig(
        scale=scale * known,
        offset=np.where(still, 0.0, offset).reshape(-1),
        weights=weights.reshape(2 * m, circuit.n_weights),
        angles=angles.reshape(2 * m, n_angles),
        shape=shape,
    )
