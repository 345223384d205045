"""Circuits out to PennyLane: tapes, qnodes on any of its devices, drawings and OpenQASM."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from qgraft.circuits.circuit import Circuit, Param
from qgraft.errors import CircuitError

Numbers = Tensor | Sequence[float]


def to_tape(circuit: Circuit, angles: Numbers, weights: Numbers) -> Any:
    """Return the circuit with its numbers as a PennyLane tape on wires 0 to n_qubits - 1.

    Args:
        circuit: what to translate.
        angles: `(n_angles,)` or `(batch, n_angles)`, or the amplitudes.
        weights: `(n_weights,)`.

    Raises:
        CircuitError: the numbers do not fit the circuit.
    """
    from pennylane.queuing import AnnotatedQueue
    from pennylane.tape import QuantumScript

    with AnnotatedQueue() as queue:
        _queue(circuit, *_numbers(circuit, angles, weights))
    return QuantumScript.from_queue(queue)


def to_qnode(circuit: Circuit, device: Any = None, **options: Any) -> Any:
    """Return a qnode `(angles, weights) -> list of measurements` on a PennyLane device.

    Args:
        circuit: what to run.
        device: any PennyLane device; by default `default.qubit`.
        **options: of `qml.QNode`, such as `diff_method` or `shots`.
    """
    import pennylane as qml

    def function(angles: Numbers, weights: Numbers) -> list[Any]:
        return _queue(circuit, *_numbers(circuit, angles, weights))

    where = device or qml.device("default.qubit", wires=circuit.n_qubits)
    return qml.QNode(function, where, **{"interface": "torch", **options})


def to_openqasm(circuit: Circuit, angles: Numbers, weights: Numbers) -> str:
    """Return the circuit with the numbers of one sample as OpenQASM 2, all qubits measured in Z."""
    import pennylane as qml

    rows, values = _numbers(circuit, angles, weights)
    if rows.ndim != 1:
        raise CircuitError(f"OpenQASM holds one sample: give angles ({circuit.n_angles},)")
    tape = to_tape(circuit, rows.detach(), values.detach())
    wires = list(range(circuit.n_qubits))
    text = qml.to_openqasm(tape, wires=wires, rotations=False, precision=17)
    # A phase of the whole state has no effect, and OpenQASM 2 no word for it.
    return "".join(line for line in text.splitlines(True) if not line.startswith("gphase"))


def draw_mpl(circuit: Circuit, **options: Any) -> Any:
    """Return a matplotlib figure of the circuit; options are those of `qml.draw_mpl`."""
    import pennylane as qml

    angles, weights = torch.ones(circuit.n_angles), torch.ones(circuit.n_weights)
    figure, _ = qml.draw_mpl(to_qnode(circuit), **options)(angles, weights)
    return figure


def _numbers(circuit: Circuit, angles: Numbers, weights: Numbers) -> tuple[Tensor, Tensor]:
    rows, values = torch.as_tensor(angles), torch.as_tensor(weights)
    if rows.ndim not in (1, 2) or rows.shape[-1] != circuit.n_angles:
        raise CircuitError(
            f"the circuit takes angles ({circuit.n_angles},) or (batch, {circuit.n_angles}), "
            f"got {tuple(rows.shape)}"
        )
    if values.shape != (circuit.n_weights,):
        raise CircuitError(
            f"the circuit takes weights ({circuit.n_weights},), got {tuple(values.shape)}"
        )
    return rows, values


def _queue(circuit: Circuit, angles: Tensor, weights: Tensor) -> list[Any]:
    """Queue the operations and return the measurements: words, then probabilities."""
    import pennylane as qml

    wires = range(circuit.n_qubits)
    if circuit.amplitudes:
        qml.AmplitudeEmbedding(angles, wires=wires, normalize=True)
    for op in circuit.ops:
        params = [_value(param, angles, weights) for param in op.params]
        if op.gate == "CU3":  # PennyLane has no name for it
            qml.ctrl(qml.U3(*params, wires=op.qubits[1]), control=op.qubits[0])
        else:
            getattr(qml, op.gate)(*params, wires=list(op.qubits))
    paulis = {"X": qml.X, "Y": qml.Y, "Z": qml.Z}
    measured = []
    for word in circuit.observables:
        measured.append(qml.expval(qml.prod(*(paulis[letter](q) for letter, q in word))))
    if circuit.probabilities:
        measured.append(qml.probs(wires=list(circuit.probabilities)))
    return measured


def _value(param: Param, angles: Tensor, weights: Tensor) -> Any:
    if param.source == "constant":
        return param.offset
    source = angles if param.source == "angle" else weights
    return param.scale * source[..., param.index] + param.offset
