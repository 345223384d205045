"""A circuit is data: gates, where their parameters come from, and what is measured."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from difflib import get_close_matches
from functools import cached_property
from typing import Any, Literal, get_args

from qgraft.circuits.gates import GATES
from qgraft.errors import CircuitError

Source = Literal["angle", "weight", "constant"]
PauliWord = tuple[tuple[str, int], ...]

MAX_QUBITS = 20
MAX_INDEX = 1_000_000
MAX_NUMBER = 1e9


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


@dataclass(frozen=True)
class Param:
    """A gate parameter: `scale * source[index] + offset`, or `offset` alone for a constant."""

    source: Source
    index: int = 0
    scale: float = 1.0
    offset: float = 0.0

    def __post_init__(self) -> None:
        if self.source not in get_args(Source):
            raise CircuitError(
                f"parameter source {self.source!r} is unknown; use one of {get_args(Source)}"
            )
        if not _is_int(self.index) or not 0 <= self.index <= MAX_INDEX:
            raise CircuitError(
                f"parameter index must be an integer from 0 to {MAX_INDEX}, got {self.index!r}"
            )
        for name, value in (("scale", self.scale), ("offset", self.offset)):
            if not isinstance(value, int | float) or not abs(value) < MAX_NUMBER:
                raise CircuitError(
                    f"parameter {name} must be a finite number below {MAX_NUMBER:g}, got {value!r}"
                )

    def __str__(self) -> str:
        if self.source == "constant":
            return f"{self.offset:.3g}"
        scale = "" if self.scale == 1 else f"{self.scale:.3g}*"
        offset = f"{self.offset:+.3g}" if self.offset else ""
        return f"{scale}{self.source[0]}{self.index}{offset}"


ZERO = Param("constant")


@dataclass(frozen=True)
class Op:
    """A gate on qubits; the first qubits of a controlled gate are its controls."""

    gate: str
    qubits: tuple[int, ...]
    params: tuple[Param, ...] = ()

    def __post_init__(self) -> None:
        gate = GATES.get(self.gate) if isinstance(self.gate, str) else None
        if gate is None:
            close = get_close_matches(str(self.gate), GATES, n=1, cutoff=0.5)
            hint = f" Did you mean {close[0]!r}?" if close else ""
            raise CircuitError(f"gate {self.gate!r} is unknown.{hint} Known: {', '.join(GATES)}")
        if len(self.qubits) != gate.n_qubits:
            raise CircuitError(f"{self.gate} acts on {gate.n_qubits} qubits, got {self.qubits}")
        if len(set(self.qubits)) != len(self.qubits):
            raise CircuitError(f"{self.gate} needs different qubits, got {self.qubits}")
        if len(self.params) != gate.n_params:
            raise CircuitError(
                f"{self.gate} takes {gate.n_params} parameters, got {len(self.params)}"
            )

    def uses(self, source: Source) -> bool:
        """Tell whether any parameter comes from `source`."""
        return any(param.source == source for param in self.params)


@dataclass(frozen=True)
class Circuit:
    """Operations on `n_qubits` qubits that start in |0...0>, and what is measured at the end.

    Attributes:
        n_qubits: 1 to 20; qubit 0 is the leading bit of a basis state.
        ops: the operations in order.
        observables: Pauli words such as `(("Z", 0), ("X", 2))`.
        probabilities: qubits whose joint outcome probabilities are read out, or None.
        amplitudes: the input is a vector of `2**n_qubits` amplitudes, normalised by the
            simulator, instead of angles.
    """

    n_qubits: int
    ops: tuple[Op, ...]
    observables: tuple[PauliWord, ...] = ()
    probabilities: tuple[int, ...] | None = None
    amplitudes: bool = False

    def __post_init__(self) -> None:
        if not _is_int(self.n_qubits) or not 1 <= self.n_qubits <= MAX_QUBITS:
            raise CircuitError(f"n_qubits must be from 1 to {MAX_QUBITS}, got {self.n_qubits!r}")
        for op in self.ops:
            self._check_qubits(op.gate, op.qubits)
        for word in self.observables:
            self._check_word(word)
        if self.probabilities is not None:
            self._check_qubits("probabilities", self.probabilities)
        if not self.observables and not self.probabilities:
            raise CircuitError("nothing is measured: give observables or probabilities")
        if self.amplitudes and any(op.uses("angle") for op in self.ops):
            raise CircuitError("a circuit on amplitudes cannot take angles as well")

    def _check_word(self, word: PauliWord) -> None:
        letters = [letter for letter, _ in word]
        if not word or any(letter not in ("X", "Y", "Z") for letter in letters):
            raise CircuitError(f"an observable is X, Y or Z on at least one qubit, got {word!r}")
        self._check_qubits("an observable", tuple(qubit for _, qubit in word))

    def _check_qubits(self, what: str, qubits: tuple[int, ...]) -> None:
        if any(not _is_int(q) or not 0 <= q < self.n_qubits for q in qubits):
            raise CircuitError(
                f"{what} on qubits {qubits}: a circuit of {self.n_qubits} qubits has "
                f"qubits 0 to {self.n_qubits - 1}"
            )
        if len(set(qubits)) != len(qubits):
            raise CircuitError(f"{what} on qubits {qubits}: each qubit may occur once")

    def _count(self, source: Source) -> int:
        used = [p.index for op in self.ops for p in op.params if p.source == source]
        return max(used, default=-1) + 1

    @cached_property
    def n_angles(self) -> int:
        """Width of the input: the angles, or the amplitudes."""
        return 2**self.n_qubits if self.amplitudes else self._count("angle")

    @cached_property
    def n_weights(self) -> int:
        """Number of trainable weights."""
        return self._count("weight")

    @cached_property
    def _hash(self) -> int:
        return hash((self.n_qubits, self.ops, self.observables, self.probabilities))

    def __hash__(self) -> int:  # computed once: a simulator looks its plan up at every step
        return self._hash

    def __reduce__(self) -> tuple[Any, ...]:  # the cached hash must not travel to other processes
        fields = (self.n_qubits, self.ops, self.observables, self.probabilities, self.amplitudes)
        return Circuit, fields

    def draw(self) -> str:
        """Return the circuit as text, one line per qubit; `a` are angles, `w` weights."""
        from qgraft.circuits.drawing import draw

        return draw(self)

    def to_json(self) -> str:
        """Return the circuit as one line of JSON."""
        ops = [
            [op.gate, op.qubits, [[p.source, p.index, p.scale, p.offset] for p in op.params]]
            for op in self.ops
        ]
        return json.dumps(
            {
                "n_qubits": self.n_qubits,
                "ops": ops,
                "observables": self.observables,
                "probabilities": self.probabilities,
                "amplitudes": self.amplitudes,
            }
        )

    @classmethod
    def from_json(cls, text: str) -> Circuit:
        """Return the circuit that `to_json` wrote.

        Raises:
            CircuitError: the text is not a circuit.
        """
        try:
            data = json.loads(text)
            ops = tuple(
                Op(gate, tuple(qubits), tuple(Param(*param) for param in params))
                for gate, qubits, params in data.pop("ops")
            )
            words = data.pop("observables")
            observables = tuple(tuple((letter, q) for letter, q in word) for word in words)
            qubits = data.pop("probabilities")
            probabilities = None if qubits is None else tuple(qubits)
            n_qubits, amplitudes = data.pop("n_qubits"), data.pop("amplitudes")
        except CircuitError:
            raise
        except (AttributeError, KeyError, RecursionError, TypeError, ValueError) as error:
            raise CircuitError(f"this text is not a circuit written by to_json: {error}") from None
        if data or not isinstance(amplitudes, bool):
            raise CircuitError(f"this text is not a circuit: unknown or wrong fields {list(data)}")
        return cls(n_qubits, ops, observables, probabilities, amplitudes)


def each_z(n_qubits: int) -> tuple[PauliWord, ...]:
    """Return the observables Z on every single qubit."""
    return tuple((("Z", qubit),) for qubit in range(n_qubits))


def words_of(circuit: Circuit, read: Literal["expvals", "probabilities"]) -> tuple[PauliWord, ...]:
    """Return Pauli words whose light cone is that of the read-out."""
    if read == "expvals":
        return circuit.observables
    return tuple((("Z", qubit),) for qubit in circuit.probabilities or ())


def prune(ops: Iterable[Op], words: Iterable[PauliWord]) -> tuple[Op, ...]:
    """Return the operations without anything that provably cannot move the Pauli words.

    Walks backwards with two sets of qubits: `support`, outside of which every measured operator
    is the identity, and `mixed`, outside of which it commutes with Z. A gate commutes with all
    operators, and is dropped, when none of its targets is in the support and none of its controls
    is mixed; a diagonal factor applied last, such as the omega of Rot, likewise becomes zero.
    """
    letters = [pair for word in words for pair in word]
    support = {qubit for _, qubit in letters}
    mixed = {qubit for letter, qubit in letters if letter != "Z"}
    kept: list[Op] = []
    for op in reversed(tuple(ops)):
        gate = GATES[op.gate]
        controls = {op.qubits[k] for k in gate.diagonal_on}
        targets = set(op.qubits) - controls
        if not targets & support and not controls & mixed:
            continue
        if not mixed & set(op.qubits):
            last = gate.trailing
            params = tuple(ZERO if k in last else p for k, p in enumerate(op.params))
            op = replace(op, params=params)
        if not gate.is_monomial or mixed & set(op.qubits):
            mixed |= targets
        support |= set(op.qubits)
        kept.append(op)
    return tuple(reversed(kept))


def inert_weights(circuit: Circuit) -> tuple[int, ...]:
    """Return the weights that provably have no effect on what the circuit measures.

    In the circuit of arXiv 2409.00228 these are the five omega of the last layer: only CNOTs and
    Z measurements follow them.
    """
    words = words_of(circuit, "expvals") + words_of(circuit, "probabilities")
    ops = prune(circuit.ops, words)
    live = {p.index for op in ops for p in op.params if p.source == "weight"}
    return tuple(index for index in range(circuit.n_weights) if index not in live)
