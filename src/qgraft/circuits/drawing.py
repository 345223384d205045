"""Text drawings of circuits."""

from __future__ import annotations

from qgraft.circuits.circuit import Circuit, Op
from qgraft.circuits.gates import GATES

WIDTH = 96


def draw(circuit: Circuit) -> str:
    """Return one line per qubit and a last line with what is measured.

    Lines longer than 96 characters continue in blocks below.
    """
    names = [f"{qubit}: " for qubit in range(circuit.n_qubits)]
    margin = max(map(len, names))
    blocks: list[list[str]] = [[name.rjust(margin) for name in names]]
    for column in _columns(circuit):
        width = max(map(len, column)) + 1
        if len(blocks[-1][0]) + width > WIDTH and len(blocks[-1][0]) > margin:
            blocks.append([" " * margin] * circuit.n_qubits)
        blocks[-1] = [
            line + "─" + cell.ljust(width - 1, "─")
            for line, cell in zip(blocks[-1], column, strict=True)
        ]
    return "\n\n".join("\n".join(block) for block in blocks) + "\n" + _measured(circuit)


def _columns(circuit: Circuit) -> list[list[str]]:
    """Put each operation into the first column where its qubits, and those between, are free."""
    columns: list[list[str]] = []
    free = [0] * circuit.n_qubits
    for op in circuit.ops:
        span = range(min(op.qubits), max(op.qubits) + 1)
        at = max(free[qubit] for qubit in span)
        if at == len(columns):
            columns.append([""] * circuit.n_qubits)
        for qubit in span:
            columns[at][qubit] = "│"
            free[qubit] = at + 1
        for qubit, cell in zip(op.qubits, _cells(op), strict=True):
            columns[at][qubit] = cell
    return columns


def _cells(op: Op) -> list[str]:
    name, controls = op.gate, 0
    while GATES[name].controlled:
        name, controls = GATES[name].controlled, controls + 1
    label = name + (f"({','.join(map(str, op.params))})" if op.params else "")
    return ["●"] * controls + [label] * (len(op.qubits) - controls)


def _measured(circuit: Circuit) -> str:
    words = [
        "<" + " ".join(f"{letter}{qubit}" for letter, qubit in word) + ">"
        for word in circuit.observables
    ]
    if circuit.probabilities:
        words.append(f"p({','.join(map(str, circuit.probabilities))})")
    return "measured: " + ", ".join(words)
