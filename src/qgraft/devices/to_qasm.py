"""Circuits out as OpenQASM 3, with numbers or with inputs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from qgraft.circuits.circuit import Circuit, Op, Param
from qgraft.circuits.preparation import prepare_amplitudes
from qgraft.errors import CircuitError
from qgraft.simulate.sampling import settings_of

Numbers = Tensor | Sequence[float]
Write = Callable[[Param], str]

NAMES = {
    "I": "id", "X": "x", "Y": "y", "Z": "z", "H": "h", "S": "s", "T": "t", "SX": "sx",
    "RX": "rx", "RY": "ry", "RZ": "rz", "PhaseShift": "p", "U3": "u3", "SWAP": "swap",
    "CNOT": "cx", "CY": "cy", "CZ": "cz", "CRX": "crx", "CRY": "cry", "CRZ": "crz",
    "ControlledPhaseShift": "cp", "Toffoli": "ccx",
}  # fmt: skip
# What has no name of its own: gates to apply in order, each with the place of its parameter.
PARTS = {
    "Rot": (("rz", 0), ("ry", 1), ("rz", 2)),
    "CRot": (("crz", 0), ("cry", 1), ("crz", 2)),
    "CU3": (("cp", 2), ("cry", 0), ("cp", 1)),
}


def to_qasm(circuit: Circuit, angles: Numbers | None = None, weights: Numbers | None = None) -> str:
    """Return the circuit as OpenQASM 3, up to a phase of the whole state.

    Numbers that are not given become inputs `a0`, `a1` ... for angles and `w0`, `w1` ... for
    weights. Amplitudes are prepared by rotations and CNOTs and must be given. What is measured
    goes to the bits `c` in the order in which the circuit reads it.

    Args:
        circuit: what to write.
        angles: `(n_angles,)`, or the amplitudes.
        weights: `(n_weights,)`.

    Raises:
        CircuitError: the numbers do not fit, or the observables need several bases.
    """
    given = {
        "angle": _numbers("angles", angles, circuit.n_angles),
        "weight": _numbers("weights", weights, circuit.n_weights),
    }
    measured = measured_circuit(circuit)
    ops = measured.ops
    if circuit.amplitudes:
        if given["angle"] is None:
            raise CircuitError("amplitudes cannot be inputs of OpenQASM; give those of one sample")
        ops = prepare_amplitudes(given["angle"]) + ops

    def write(param: Param) -> str:
        values = given.get(param.source)
        if param.source == "constant" or values is not None:
            source = values[param.index] if values is not None else 0.0
            return repr(param.scale * source + param.offset)
        scale = "" if param.scale == 1 else f"{param.scale!r}*"
        offset = f" + {param.offset!r}" if param.offset else ""
        return f"{scale}{param.source[0]}{param.index}{offset}"

    inputs = [
        f"input float[64] {source[0]}{k};"
        for source, count in (("angle", circuit.n_angles), ("weight", circuit.n_weights))
        if given[source] is None
        for k in range(count)
    ]
    read = measured.probabilities or ()
    lines = ["OPENQASM 3.0;", 'include "stdgates.inc";', *inputs]
    lines += [f"qubit[{circuit.n_qubits}] q;", f"bit[{len(read)}] c;"]
    lines += [line for op in ops for line in _gate(op, write)]
    lines += [f"c[{bit}] = measure q[{qubit}];" for bit, qubit in enumerate(read)]
    return "\n".join(lines) + "\n"


def measured_circuit(circuit: Circuit) -> Circuit:
    """Return the circuit that reads probabilities of the qubits its observables live on.

    Raises:
        CircuitError: the observables cannot all be read in one basis.
    """
    if circuit.probabilities:
        return replace(circuit, observables=())
    settings = settings_of(circuit)
    if len(settings) != 1:
        raise CircuitError(
            f"these observables need {len(settings)} bases to be measured in, a file holds one; "
            "write the circuit of each of settings_of(circuit)"
        )
    return settings[0].circuit


def _numbers(what: str, values: Numbers | None, count: int) -> list[float] | None:
    if values is None:
        return None
    row = torch.as_tensor(values).detach().double()
    if row.shape != (count,):
        raise CircuitError(f"the circuit takes {what} ({count},), got {tuple(row.shape)}")
    if not row.isfinite().all():
        raise CircuitError(f"{what} must be finite to be written, got {row.tolist()}")
    return row.tolist()


def _gate(op: Op, write: Write) -> list[str]:
    qubits = ", ".join(f"q[{qubit}]" for qubit in op.qubits)
    if op.gate in PARTS:
        return [f"{name}({write(op.params[k])}) {qubits};" for name, k in PARTS[op.gate]]
    params = f"({', '.join(map(write, op.params))})" if op.params else ""
    return [f"{NAMES[op.gate]}{params} {qubits};"]
