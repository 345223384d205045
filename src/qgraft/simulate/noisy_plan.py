"""Compile a noisy circuit into steps on Pauli vectors: permutations, layers and other gates."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache, reduce
from itertools import product
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from qgraft.circuits.circuit import Circuit, Op
from qgraft.circuits.gates import GATES
from qgraft.simulate.noise import NoiseModel, pauli_transfer, pauli_words
from qgraft.simulate.plan import gate_matrices
from qgraft.simulate.program import evaluator

Family = tuple[int, bool]
Read = Literal["expvals", "probabilities"]
Table = Callable[[Tensor, Tensor], Tensor]
TINY = 1e-12  # rounding noise in constant matrices


@dataclass(frozen=True, eq=False)
class Piece:
    """A gate with the noise after it, on Pauli vectors of its qubits.

    Attributes:
        qubits: what it acts on.
        op: a gate with variables; None when `matrix` is everything.
        matrix: the constant factor, applied last.
        index: set when everything is a permutation, `new[j] = factor[j] * old[index[j]]`.
        factor: the factors of that permutation.
    """

    qubits: tuple[int, ...]
    op: Op | None
    matrix: np.ndarray | None
    index: np.ndarray | None = None
    factor: np.ndarray | None = None

    @property
    def per_sample(self) -> bool:
        """Tell whether it takes angles."""
        return self.op is not None and self.op.uses("angle")

    @property
    def family(self) -> Family:
        """The table its matrix stands in."""
        return 4 ** len(self.qubits), self.per_sample

    def as_matrix(self) -> Piece:
        """Return a permutation as a plain constant; anything else as it is."""
        if self.index is None or self.factor is None:
            return self
        matrix = np.eye(len(self.index))[self.index] * self.factor[:, None]
        return Piece(self.qubits, None, matrix)


IDENTITY = Piece((0,), None, np.eye(4))


@dataclass(frozen=True)
class Layers:
    """Layer `number`: one matrix on every qubit."""

    number: int


@dataclass(frozen=True, eq=False)
class Permute:
    """`new[j] = factor[j] * old[index[j]]` on Pauli vectors."""

    index: Tensor
    inverse: Tensor
    factor: Tensor


@dataclass(frozen=True)
class Apply:
    """Matrix `number` of the family `(size, per_sample)` applied to `qubits`."""

    size: int
    per_sample: bool
    number: int
    qubits: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Link:
    """One gate on each of some qubits before any entangler; `qubits` None means all."""

    per_sample: bool
    numbers: Tensor
    qubits: Tensor | None


Step = Layers | Permute | Apply


@dataclass(frozen=True, eq=False)
class NoisyProgram:
    """What the simulator does, in order.

    Attributes:
        ground: `(n_qubits, 4)`, the Pauli vectors of |0>.
        prefix: gates on single qubits that come first.
        steps: the rest; from `n_forward` on nothing depends on the sample.
        tables: the matrices by family, from `(angles, weights)`.
        slots: `(chain, n_layers, n_qubits)` numbers into the family of single qubits.
        columns: the Pauli words that are read.
        mixing: `(n_columns, n_outputs)`; None when the outputs are the words.
        offset: `(n_outputs,)`.
    """

    amplitudes: bool
    ground: Tensor
    prefix: tuple[Link, ...]
    steps: tuple[Step, ...]
    n_forward: int
    tables: dict[Family, Table]
    slots: Tensor | None
    columns: Tensor
    mixing: Tensor | None
    offset: Tensor


def pieces_of(circuit: Circuit, noise: NoiseModel) -> list[Piece]:
    """Return the operations with their noise; permutations keep only noise that is diagonal."""
    found: list[Piece] = []
    for op in circuit.ops:
        single = noise.transfer(op.gate)
        whole = reduce(np.kron, [single] * len(op.qubits))
        if op.uses("angle") or op.uses("weight"):
            clean = np.array_equal(single, np.eye(4))
            found.append(Piece(op.qubits, op, None if clean else whole))
            continue
        gate = pauli_transfer(GATES[op.gate].matrix([p.offset for p in op.params])[None])
        gate[abs(gate) < TINY] = 0.0
        if not ((gate != 0).sum(axis=1) == 1).all():
            found.append(Piece(op.qubits, None, whole @ gate))
            continue
        index = (gate != 0).argmax(axis=1)
        sign = gate[np.arange(len(gate)), index]
        diagonal = not (single - np.diag(np.diag(single))).any()
        factor = sign * np.diag(whole) if diagonal else sign
        found.append(Piece(op.qubits, None, None, index, factor))
        if not diagonal:
            found += [Piece((qubit,), None, single) for qubit in op.qubits]
    return found


class _Numbers:
    """Where the matrix of every piece stands in the table of its family: constants come first."""

    def __init__(self, pieces: list[Piece]) -> None:
        self.members: dict[Family, list[Piece]] = {(4, False): [IDENTITY]}
        for piece in pieces:
            self.members.setdefault(piece.family, []).append(piece)
        for family in self.members.values():
            family.sort(key=lambda piece: piece.op is not None)
        self._places = {
            id(piece): k for family in self.members.values() for k, piece in enumerate(family)
        }

    def __getitem__(self, piece: Piece) -> int:
        return self._places[id(piece)]


@dataclass(frozen=True)
class _Tensors:
    """Makes constants for one dtype on one device."""

    dtype: torch.dtype
    device: torch.device

    def real(self, array: np.ndarray) -> Tensor:
        return torch.as_tensor(np.ascontiguousarray(array), dtype=self.dtype, device=self.device)

    def complex(self, array: np.ndarray) -> Tensor:
        return torch.complex(self.real(np.real(array)), self.real(np.imag(array)))

    def whole(self, array: np.ndarray | Sequence[int]) -> Tensor:
        return torch.as_tensor(np.asarray(array), dtype=torch.int64, device=self.device)


@lru_cache(maxsize=64)
def noisy_program(
    circuit: Circuit, noise: NoiseModel, read: Read, dtype: torch.dtype, device: torch.device
) -> NoisyProgram:
    """Return the program of one read-out."""
    with torch.inference_mode(False):
        return _build(circuit, noise, read, _Tensors(dtype, device))


def _build(circuit: Circuit, noise: NoiseModel, read: Read, make: _Tensors) -> NoisyProgram:
    n = circuit.n_qubits
    pieces = pieces_of(circuit, noise)
    first: list[Piece] = []
    if not circuit.amplitudes:
        first, pieces = _take(pieces, lambda piece: len(piece.qubits) == 1, n)
        first = [piece.as_matrix() for piece in first]
    numbers = _Numbers(first + [piece for piece in pieces if piece.index is None])
    steps, layers = _schedule(pieces, n, numbers, make)
    columns, mixing, offset = _readout(circuit, noise, read)
    plain = mixing.shape[0] == mixing.shape[1] and np.array_equal(mixing, np.eye(len(mixing)))
    late = [k for k, step in enumerate(steps) if isinstance(step, Apply) and step.per_sample]
    return NoisyProgram(
        amplitudes=circuit.amplitudes,
        ground=make.real(np.tile([1.0, 0.0, 0.0, 1.0], (n, 1))),
        prefix=_prefix(_by_qubit(first, n), numbers, make),
        steps=tuple(steps),
        n_forward=late[-1] + 1 if late else 0,
        tables={key: _table(family, circuit, make) for key, family in numbers.members.items()},
        slots=_slots(layers, numbers, make),
        columns=make.whole(columns),
        mixing=None if plain else make.real(mixing),
        offset=make.real(offset),
    )


def _schedule(
    pieces: list[Piece], n: int, numbers: _Numbers, make: _Tensors
) -> tuple[list[Step], list[list[list[Piece]]]]:
    """Put the pieces into steps; a layer is a chain of pieces for every qubit."""
    steps: list[Step] = []
    layers: list[list[list[Piece]]] = []
    rest = pieces
    while rest:
        taken, rest = _take(rest, lambda piece: piece.index is not None, n)
        if taken:
            steps.append(_permute(taken, n, make))
        taken, rest = _take(rest, _is_layered, n)
        if taken:
            steps.append(Layers(len(layers)))
            layers.append(_by_qubit(taken, n))
            continue
        taken, rest = _take(rest, lambda p: p.index is None and not _is_layered(p), n)
        steps += [Apply(*piece.family, numbers[piece], piece.qubits) for piece in taken]
    return steps, layers


def _by_qubit(pieces: list[Piece], n: int) -> list[list[Piece]]:
    return [[piece for piece in pieces if piece.qubits == (qubit,)] for qubit in range(n)]


def _permute(pieces: list[Piece], n: int, make: _Tensors) -> Permute:
    """Multiply permutations into one."""
    words = np.arange(4**n)
    index, factor = words.copy(), np.ones(4**n)
    for piece in pieces:
        assert piece.index is not None
        assert piece.factor is not None
        shifts = [2 * (n - 1 - qubit) for qubit in reversed(piece.qubits)]
        row = sum((words >> shift & 3) << 2 * k for k, shift in enumerate(shifts))
        moved = words
        for k, shift in enumerate(shifts):
            moved = moved & ~(3 << shift) | (piece.index[row] >> 2 * k & 3) << shift
        index, factor = index[moved], piece.factor[row] * factor[moved]
    return Permute(make.whole(index), make.whole(np.argsort(index)), make.real(factor))


def _prefix(chains: list[list[Piece]], numbers: _Numbers, make: _Tensors) -> tuple[Link, ...]:
    """Return the leading gates: at each place of the chains one link per family."""
    links: list[Link] = []
    for place in range(max(map(len, chains), default=0)):
        here = [(qubit, chain[place]) for qubit, chain in enumerate(chains) if len(chain) > place]
        for per_sample in (False, True):
            chosen = [(qubit, piece) for qubit, piece in here if piece.per_sample == per_sample]
            if chosen:
                places = make.whole([numbers[piece] for _, piece in chosen])
                qubits = make.whole([qubit for qubit, _ in chosen])
                links.append(
                    Link(per_sample, places, None if len(chosen) == len(chains) else qubits)
                )
    return tuple(links)


def _slots(layers: list[list[list[Piece]]], numbers: _Numbers, make: _Tensors) -> Tensor | None:
    if not layers:
        return None
    longest = max(len(chain) for layer in layers for chain in layer)
    padded = [[chain + [IDENTITY] * (longest - len(chain)) for chain in layer] for layer in layers]
    table = [[[numbers[piece] for piece in chain] for chain in layer] for layer in padded]
    return make.whole(np.array(table).transpose(2, 0, 1))


def _table(pieces: list[Piece], circuit: Circuit, make: _Tensors) -> Table:
    """Return the function that computes the matrices `(n_pieces, size, size)` of a family."""
    fixed = [piece.matrix for piece in pieces if piece.op is None and piece.matrix is not None]
    constants = make.real(np.array(fixed)) if fixed else None
    ops = [piece.op for piece in pieces if piece.op is not None]
    if not ops:
        assert constants is not None
        return lambda angles, weights: constants
    evaluate = evaluator(gate_matrices(ops, circuit, False), make.real)
    after = [piece.matrix for piece in pieces if piece.op is not None]
    one = np.eye(4 ** len(ops[0].qubits))
    noise = make.real(np.array([one if matrix is None else matrix for matrix in after]))
    clean = all(matrix is None for matrix in after)
    words = pauli_words(len(ops[0].qubits))
    # one row per word: tr(P rho) as a sum over row and column of rho
    to_words = make.complex(words.transpose(0, 2, 1).reshape(len(words), -1))
    back = to_words.conj().T / words.shape[1]

    def table(angles: Tensor, weights: Tensor) -> Tensor:
        gates = torch.view_as_complex(evaluate(angles, weights))
        lifted = gates[..., :, None, :, None] * gates.conj()[..., None, :, None, :]
        transfer = (to_words @ lifted.flatten(-2).flatten(-3, -2) @ back).real
        transfer = transfer if clean else noise @ transfer
        return transfer if constants is None else torch.cat([constants, transfer])

    return table


def _is_layered(piece: Piece) -> bool:
    return piece.index is None and len(piece.qubits) == 1 and not piece.per_sample


def _take(
    pieces: list[Piece], wanted: Callable[[Piece], bool], n: int
) -> tuple[list[Piece], list[Piece]]:
    """Split off the wanted pieces that no earlier, unwanted one holds back."""
    taken: list[Piece] = []
    rest: list[Piece] = []
    blocked: set[int] = set()
    for k, piece in enumerate(pieces):
        if len(blocked) == n:
            return taken, rest + pieces[k:]
        if blocked.isdisjoint(piece.qubits) and wanted(piece):
            taken.append(piece)
        else:
            rest.append(piece)
            blocked.update(piece.qubits)
    return taken, rest


def _readout(
    circuit: Circuit, noise: NoiseModel, read: Read
) -> tuple[list[int], np.ndarray, np.ndarray]:
    """Return the Pauli words to read, how they mix into outputs, and the outputs' offset.

    A qubit that is read wrongly turns its letter P into `shift + slope P`.
    """
    up, down = noise.readout
    shift, slope = down - up, 1 - up - down
    outputs: list[dict[int, float]] = []
    if read == "expvals":
        for word in circuit.observables:
            sites = [(qubit, "IXYZ".index(letter), shift, slope) for letter, qubit in word]
            outputs.append(_expand(sites, circuit.n_qubits))
    else:
        qubits = circuit.probabilities or ()
        for bits in product((1, -1), repeat=len(qubits)):
            sites = [
                (qubit, 3, (1 + sign * shift) / 2, sign * slope / 2)
                for qubit, sign in zip(qubits, bits, strict=True)
            ]
            outputs.append(_expand(sites, circuit.n_qubits))
    columns = sorted({word for output in outputs for word in output if word})
    if read == "expvals" and not shift:
        columns = list(dict.fromkeys(next(iter(output)) for output in outputs))
    place = {word: k for k, word in enumerate(columns)}
    mixing, offset = np.zeros((len(columns), len(outputs))), np.zeros(len(outputs))
    for k, output in enumerate(outputs):
        offset[k] = output.get(0, 0.0)
        for word, coefficient in output.items():
            if word:
                mixing[place[word], k] = coefficient
    return columns, mixing, offset


def _expand(sites: list[tuple[int, int, float, float]], n: int) -> dict[int, float]:
    """Multiply `shift + slope P` over the sites out into words and coefficients."""
    words = {0: 1.0}
    for qubit, letter, shift, slope in sites:
        moved = {word | letter << 2 * (n - 1 - qubit): c * slope for word, c in words.items()}
        kept = {word: c * shift for word, c in words.items()} if shift else {}
        words = kept | moved
    return words
