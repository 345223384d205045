"""Two-qubit blocks of quantum convolutional networks: convolutions and poolings, as data.

A block acts on a first qubit `a` and a second one `b`; its weights count in order of appearance.
The convolutions are circuits 1 to 11 of Kim, Huh and Park (arXiv 2208.14708), most of them taken
over from Hur, Kim and Park (arXiv 2108.00661). A pooling block acts on the source `a`, which is
ignored afterwards, and on `b`, which is kept.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cached_property

from qgraft.circuits.circuit import Circuit, Op, Param, each_z
from qgraft.circuits.gates import GATES
from qgraft.errors import CircuitError


@dataclass(frozen=True)
class Block:
    """Gates on a pair of qubits.

    Attributes:
        name: what it is called in settings.
        gates: gate names with the qubits they act on, controls first, as in `"CNOT ab, RY b"`.
        source: where the block comes from.
    """

    name: str
    gates: str
    source: str

    @cached_property
    def steps(self) -> tuple[tuple[str, str], ...]:
        """The gates as pairs of a name and of letters."""
        words = (step.split() for step in self.gates.split(",") if step)
        return tuple((gate, letters) for gate, letters in words)

    @cached_property
    def n_weights(self) -> int:
        """Number of weights of one application."""
        return sum(GATES[gate].n_params for gate, _ in self.steps)

    def on(self, first: int, second: int, first_weight: int = 0) -> tuple[Op, ...]:
        """Return the block on two qubits with its weights from `first_weight` on."""
        place, at, ops = {"a": first, "b": second}, first_weight, []
        for gate, letters in self.steps:
            end = at + GATES[gate].n_params
            params = tuple(Param("weight", k) for k in range(at, end))
            ops.append(Op(gate, tuple(place[letter] for letter in letters), params))
            at = end
        return tuple(ops)

    def draw(self) -> str:
        """Return the block as text, `a` on line 0 and `b` on line 1."""
        return Circuit(2, self.on(0, 1), each_z(2)).draw()


def _rotated(first: str, between: str, second: str, last: str) -> str:
    """Return two layers of one rotation on both qubits, with an entangler after each."""
    return f"{first} a, {first} b, {between}, {second} a, {second} b, {last}"


_FRAME = "RX a, RX b, RZ a, RZ b"
_SIM = "Sim, Johnson and Aspuru-Guzik, arXiv 1905.10876, circuit"

CONVOLUTIONS: Mapping[str, Block] = {
    block.name: block
    for block in (
        Block("cz", "CZ ab", "arXiv 2208.14708, circuit 1"),
        Block("ttn", "RY a, RY b, CNOT ab", "tree tensor network, Grant et al., arXiv 1804.03680"),
        Block("u9", "H a, H b, CZ ab, RX a, RX b", f"{_SIM} 9"),
        Block("u15", _rotated("RY", "CNOT ba", "RY", "CNOT ab"), f"{_SIM} 15"),
        Block("u13", _rotated("RY", "CRZ ba", "RY", "CRZ ab"), f"{_SIM} 13"),
        Block("u14", _rotated("RY", "CRX ba", "RY", "CRX ab"), f"{_SIM} 14"),
        Block(
            "so4",
            _rotated("RY", "CNOT ab", "RY", "CNOT ab") + ", RY a, RY b",
            "real two-qubit gates, Wei and Di, arXiv 1203.0722",
        ),
        Block("u5", f"{_FRAME}, CRZ ba, CRZ ab, {_FRAME}", f"{_SIM} 5"),
        Block("u6", f"{_FRAME}, CRX ba, CRX ab, {_FRAME}", f"{_SIM} 6"),
        Block(
            "su4",
            "U3 a, U3 b, CNOT ab, RY a, RZ b, CNOT ba, RY a, CNOT ab, U3 a, U3 b",
            "any two-qubit gate, Vatan and Williams, arXiv quant-ph/0308006",
        ),
        Block("cu3", "U3 a, CU3 ab, X a, CU3 ab, X a", "arXiv 2208.14708, circuit 11"),
    )
}

POOLINGS: Mapping[str, Block] = {
    block.name: block
    for block in (
        Block("zx", "CRZ ab, X a, CRX ab", "Hur, Kim and Park, arXiv 2108.00661"),
        Block("generalised", "CU3 ab, X a, CU3 ab", "arXiv 2208.14708"),
        Block("trivial", "", "arXiv 2208.14708: the source is ignored, nothing else"),
    )
}


def find_block(kind: str, name: str, blocks: Mapping[str, Block]) -> Block:
    """Return the block called `name`.

    Raises:
        CircuitError: there is none.
    """
    if name not in blocks:
        close = get_close_matches(str(name), blocks, n=1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        raise CircuitError(f"unknown {kind} {name!r}; {hint}known: {', '.join(blocks)}")
    return blocks[name]
