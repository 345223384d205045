"""PennyLane tapes in, circuits out.

A tape is taken apart into the gate table by PennyLane's own decompositions. Its parameters stay
what they are, torch tensors with their history, so any classical expression around them is kept:
those with a batch become the circuit's angles, single ones its weights, plain numbers constants.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from numbers import Real
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from qgraft.circuits.circuit import Circuit, Op, Param
from qgraft.circuits.gates import GATES
from qgraft.devices.readout import Readout, UntranslatableError, read_measurements

NAMES: dict[str, str] = {
    "PauliX": "X",
    "PauliY": "Y",
    "PauliZ": "Z",
    "Hadamard": "H",
    "C(U3)": "CU3",
}
WITHOUT_EFFECT = ("Identity", "GlobalPhase", "Barrier")
EXACT_DEVICES = ("default.qubit", "default.mixed", "lightning", "reference.qubit", "null.qubit")


@dataclass(frozen=True)
class Script:
    """A tape in a circuit's terms.

    Attributes:
        gates: name and qubits of every gate.
        params: the parameters of all gates in order, as PennyLane holds them.
        state: the AmplitudeEmbedding or StatePrep it starts with, on the first qubits, or None.
        readout: what is measured.
    """

    n_qubits: int
    gates: tuple[tuple[str, tuple[int, ...]], ...]
    params: tuple[Any, ...]
    state: Any
    readout: Readout


class Bound(NamedTuple):
    """Circuits that share their numbers: one for expectation values, one per probability."""

    circuits: tuple[Circuit, ...]
    angles: Tensor
    weights: Tensor


def record(qnode: Any, arguments: Mapping[str, Any]) -> tuple[Any, Any]:
    """Run a qnode's function and return its tape and what it returns."""
    from pennylane.measurements import MeasurementProcess
    from pennylane.queuing import AnnotatedQueue
    from pennylane.tape import QuantumScript

    with AnnotatedQueue() as queue:
        output = qnode.func(**arguments)
    measured = list(output) if isinstance(output, list | tuple) else [output]
    for each in measured:
        if not isinstance(each, MeasurementProcess):
            raise UntranslatableError(f"a qnode that returns {type(each).__name__} in its output")
    return QuantumScript(QuantumScript.from_queue(queue).operations, measured), output


def check_qnode(qnode: Any) -> None:
    """Refuse a qnode whose device or transforms an exact simulation would not follow.

    Raises:
        UntranslatableError: the qnode samples, runs on hardware, or is transformed.
    """
    if qnode.shots:
        raise UntranslatableError(f"a qnode with finite shots ({qnode.shots.total_shots})")
    if not qnode.device.name.startswith(EXACT_DEVICES):
        raise UntranslatableError(f"a qnode on device {qnode.device.name!r}")
    if len(qnode.compile_pipeline):
        raise UntranslatableError(f"the transform {qnode.compile_pipeline[0]}")


def read_tape(tape: Any, device_wires: Any = None) -> Script:
    """Translate a tape.

    Args:
        tape: a PennyLane tape.
        device_wires: what a probability without wires reads; by default the tape's wires.

    Raises:
        UntranslatableError: names the operation or measurement that has no counterpart.
    """
    import pennylane as qml

    operations = list(tape.operations)
    state = None
    if operations and isinstance(operations[0], qml.StatePrep):
        state = operations.pop(0)
    all_wires = list(device_wires or tape.wires)
    first = list(state.wires) if state is not None else []
    read_all = any(not m.wires and m.obs is None for m in tape.measurements)
    used = set(all_wires) if read_all else set(tape.wires)
    rest = [wire for wire in all_wires if wire in used and wire not in first]
    qubits = {wire: qubit for qubit, wire in enumerate(first + rest)}
    with qml.QueuingManager.stop_recording():
        found = [gate for op in operations for gate in _expand(op)]
    return Script(
        n_qubits=len(qubits),
        gates=tuple((name, tuple(qubits[wire] for wire in wires)) for name, wires, _ in found),
        params=tuple(param for _, _, params in found for param in params),
        state=state,
        readout=read_measurements(tape.measurements, qubits.__getitem__, all_wires),
    )


def _expand(op: Any) -> Iterator[tuple[str, Any, tuple[Any, ...]]]:
    """Yield gates of the table that make up a PennyLane operation."""
    import pennylane as qml

    if op.name in WITHOUT_EFFECT:
        return
    name = NAMES.get(str(op.name), str(op.name))
    gate = GATES.get(name)
    on_ones = all(getattr(op, "control_values", ()))
    if gate and on_ones and len(op.wires) == gate.n_qubits and len(op.data) == gate.n_params:
        yield name, op.wires, tuple(op.data)
        return
    try:
        parts = _controlled(op) or op.decomposition()
    except qml.exceptions.DecompositionUndefinedError:
        raise UntranslatableError(f"the operation {op.name}") from None
    except (NotImplementedError, ValueError) as error:
        raise UntranslatableError(f"the operation {op.name} ({error})") from None
    for part in parts:
        yield from _expand(part)


def _controlled(op: Any) -> list[Any]:
    """Decompose a controlled gate where PennyLane would look at the numbers, else return nothing.

    Under its controls a rotation is `R(t/2) X R(-t/2) X`, which is R(t) with and nothing without
    them; other gates of one qubit are controlled factor by factor.
    """
    import pennylane as qml

    if not op.name.startswith("C(") or len(op.target_wires) != 1:
        return []
    base, controls, values = op.base, op.control_wires, op.control_values
    if base.name in ("Rot", "PhaseShift", "U1", "U2", "U3"):
        return [qml.ctrl(part, controls, values) for part in base.decomposition()]
    if base.name == "RX":
        turn = qml.Hadamard(base.wires)
        return [turn, qml.ctrl(qml.RZ(base.data[0], base.wires), controls, values), turn]
    if base.name not in ("RY", "RZ"):
        return []
    flip = qml.MultiControlledX(controls + base.wires, control_values=values)
    half = type(base)(base.data[0] / 2, base.wires)
    return [flip, type(base)(-base.data[0] / 2, base.wires), flip, half]


def bind(script: Script, dtype: torch.dtype, device: torch.device) -> Bound:
    """Return circuits whose every parameter is a slot of its own, and the numbers in them.

    Raises:
        UntranslatableError: a state of amplitudes is complex or meets gates with a batch.
    """
    values = [_value(param) for param in script.params]
    batch = max((len(v) for v in values if isinstance(v, Tensor) and v.ndim), default=None)
    slots: dict[str, list[Tensor]] = {"angle": [], "weight": []}
    params: list[Param] = []
    for value in values:
        if not isinstance(value, Tensor):
            params.append(Param("constant", offset=value))
            continue
        is_single = value.ndim == 0 or (len(value) == 1 and batch != 1)
        source = "weight" if is_single else "angle"
        params.append(Param(source, len(slots[source])))
        slots[source].append((value.reshape(()) if is_single else value).to(device, dtype))
    angles = torch.stack(slots["angle"], dim=1) if slots["angle"] else None
    if script.state is not None:
        if angles is not None:
            raise UntranslatableError(
                f"{script.state.name} together with gates on a batch of angles"
            )
        angles = _amplitudes(script).to(device, dtype)
    single, has_state = slots["weight"], script.state is not None
    return Bound(
        circuits=circuits_of(
            script.n_qubits, script.gates, tuple(params), has_state, script.readout
        ),
        angles=torch.empty(1, 0, dtype=dtype, device=device) if angles is None else angles,
        weights=torch.stack(single) if single else torch.empty(0, dtype=dtype, device=device),
    )


@lru_cache(maxsize=64)
def circuits_of(
    n_qubits: int,
    gates: tuple[tuple[str, tuple[int, ...]], ...],
    params: tuple[Param, ...],
    has_state: bool,
    readout: Readout,
) -> tuple[Circuit, ...]:
    """Return the circuits of a script with the given parameters, from a cache."""
    ready = iter(params)
    ops = tuple(
        Op(name, qubits, tuple(next(ready) for _ in range(GATES[name].n_params)))
        for name, qubits in gates
    )
    return readout.circuits(n_qubits, ops, has_state)


def _value(param: Any) -> Tensor | float:
    """Return a parameter as a tensor `(batch,)` or `()`, or as a number when it is one."""
    if isinstance(param, Tensor):
        return param
    if isinstance(param, Real):
        return float(param)
    array = np.asarray(param, dtype=float)
    return torch.from_numpy(array) if array.ndim else float(array)


def _amplitudes(script: Script) -> Tensor:
    """Return the state that a script starts from, `(batch, 2**n_qubits)`."""
    vector = torch.as_tensor(script.state.data[0])
    if vector.is_complex():
        if vector.imag.any():
            raise UntranslatableError(f"{script.state.name} with complex amplitudes")
        vector = vector.real
    return widen(vector.reshape(-1, vector.shape[-1]), script.n_qubits)


def widen(amplitudes: Tensor, n_qubits: int) -> Tensor:
    """Return amplitudes `(batch, 2**k)` of the first k qubits with all others in |0>."""
    others = 2**n_qubits // amplitudes.shape[1]
    return F.pad(amplitudes.unsqueeze(-1), (0, others - 1)).flatten(1)
