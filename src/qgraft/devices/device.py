"""Circuits on any PennyLane device, and what a run will cost before it is started."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from qgraft.circuits.circuit import Circuit
from qgraft.devices.to_pennylane import to_qnode
from qgraft.devices.to_qasm import to_qasm
from qgraft.errors import ConfigError
from qgraft.simulate.sampling import check_shots, settings_of

Run = Callable[[Circuit, Tensor, Tensor], Tensor]
PREFIX = "pennylane:"
# CNOTs that a gate takes at most, before any routing (Nielsen and Chuang, section 4.3).
ENTANGLERS = {
    "CNOT": 1, "CZ": 1, "CY": 1, "SWAP": 3, "CRX": 2, "CRY": 2, "CRZ": 2, "CRot": 2, "CU3": 2,
    "ControlledPhaseShift": 2, "Toffoli": 6,
}  # fmt: skip


@dataclass(frozen=True)
class Cost:
    """What a run on a device takes.

    Attributes:
        circuits: how many are sent.
        shots: measurements in all.
        depth: of one circuit, after transpiling where a backend is known.
        two_qubit_gates: of one circuit, likewise.
        transpiled: tells whether the last two are for a real coupling map.
    """

    circuits: int
    shots: int
    depth: int
    two_qubit_gates: int
    transpiled: bool

    def __str__(self) -> str:
        where = "after transpiling" if self.transpiled else "before routing"
        return (
            f"{self.circuits:,} circuits, {self.shots:,} shots in all; {where} each has depth "
            f"{self.depth} and {self.two_qubit_gates} two-qubit gates"
        )


def device_name(backend: str) -> str:
    """Return NAME of `pennylane:NAME`.

    Raises:
        ConfigError: it is something else.
    """
    name = backend.removeprefix(PREFIX)
    if not backend.startswith(PREFIX) or not name:
        raise ConfigError(
            f"backend {backend!r} is no device; write pennylane:NAME, such as "
            "pennylane:default.qubit, pennylane:lightning.qubit or pennylane:qiskit.aer, or "
            "ibm:NAME for a machine of IBM Quantum"
        )
    return name


def open_device(name: str, n_qubits: int, noise_from: str | None = None) -> Any:
    """Return a PennyLane device.

    Args:
        name: what PennyLane calls it.
        n_qubits: how many wires it gets.
        noise_from: a backend of `qiskit_ibm_runtime.fake_provider`, such as `FakeManilaV2`; its
            coupling map and noise are then simulated.

    Raises:
        ConfigError: there is no such device or backend, or it is not installed.
    """
    import pennylane as qml

    if noise_from is not None:
        simulator = _simulated(noise_from, n_qubits)
        return qml.device("qiskit.remote", wires=n_qubits, backend=simulator)
    try:
        return qml.device(name, wires=n_qubits)
    except Exception as error:  # a plugin fails in its own way
        raise ConfigError(
            f"PennyLane device {name!r} cannot be opened ({error}); install its plugin, for "
            "Qiskit pip install 'qgraft[qpu]'"
        ) from None


def fake_backend(name: str) -> Any:
    """Return a snapshot of a real machine that ships with `qiskit-ibm-runtime`.

    Raises:
        ConfigError: there is none of this name, or the package is not installed.
    """
    try:
        fake_provider = import_module("qiskit_ibm_runtime.fake_provider")
    except ImportError:
        raise ConfigError("fake backends need Qiskit: pip install 'qgraft[qpu]'") from None
    known = [each for each in dir(fake_provider) if each.startswith("Fake")]
    if name not in known:
        from difflib import get_close_matches

        close = get_close_matches(name, known, n=3)
        hint = f"did you mean {', '.join(close)}? " if close else ""
        raise ConfigError(
            f"there is no fake backend {name!r}; {hint}{len(known)} are known, such as FakeManilaV2"
        )
    return getattr(fake_provider, name)()


def _simulated(name: str, n_qubits: int) -> Any:
    backend = fake_backend(name)
    if backend.num_qubits < n_qubits:
        raise ConfigError(f"{name} has {backend.num_qubits} qubits, the circuit needs {n_qubits}")
    try:
        aer = import_module("qiskit_aer")
    except ImportError:
        raise ConfigError("its simulation needs Qiskit Aer: pip install 'qgraft[qpu]'") from None
    return aer.AerSimulator.from_backend(backend)


def device_run(
    name: str,
    *,
    shots: int | None = None,
    noise_from: str | None = None,
    on_device: Callable[[Any], None] | None = None,
) -> Run:
    """Return a function that runs circuits on a device, for `qgraft.heads.measured.MeasuredHead`.

    Args:
        name: what PennyLane calls the device.
        shots: measurements of each circuit; None for exact values, where the device has them.
        noise_from: see `open_device`.
        on_device: is told the device when it is opened.
    """
    if shots is not None:
        check_shots(shots)
    opened: dict[int, Any] = {}

    def run(circuit: Circuit, angles: Tensor, weights: Tensor) -> Tensor:
        n = circuit.n_qubits
        if n not in opened:
            opened[n] = open_device(name, n, noise_from)
            if on_device is not None:
                on_device(opened[n])
        node = to_qnode(circuit, opened[n], diff_method=None, shots=shots)
        with torch.no_grad():
            found = node(angles.detach().double(), weights.detach().double())
        columns = [torch.as_tensor(column) for column in found]
        table = columns[-1] if circuit.probabilities else torch.stack(columns, dim=-1)
        return table.reshape(len(angles), -1).to(angles)

    return run


def estimate_cost(
    circuit: Circuit,
    n_samples: int,
    shots: int,
    *,
    foldings: int = 1,
    noise_from: str | None = None,
) -> Cost:
    """Return what a run will take, before anything is sent.

    Args:
        circuit: of the head.
        n_samples: images to score.
        shots: measurements of each circuit.
        foldings: how many folding factors an extrapolation uses.
        noise_from: a fake backend to transpile for; without one gates are counted as they are.
    """
    check_shots(shots)
    settings = len(settings_of(circuit)) if circuit.observables else 1
    circuits = n_samples * settings * foldings
    if noise_from is None:
        depth, gates = _depth(circuit), sum(ENTANGLERS.get(op.gate, 0) for op in circuit.ops)
    else:
        depth, gates = _transpiled(circuit, fake_backend(noise_from))
    return Cost(circuits, circuits * shots, depth, gates, noise_from is not None)


def _depth(circuit: Circuit) -> int:
    free = [0] * circuit.n_qubits
    for op in circuit.ops:
        level = 1 + max(free[qubit] for qubit in op.qubits)
        for qubit in op.qubits:
            free[qubit] = level
    return max(free)


def _transpiled(circuit: Circuit, backend: Any) -> tuple[int, int]:
    qiskit = import_module("qiskit")
    qasm3 = import_module("qiskit.qasm3")
    angles = torch.linspace(0.1, 1.0, circuit.n_angles)
    weights = torch.linspace(0.2, 2.9, circuit.n_weights)
    program = qasm3.loads(to_qasm(circuit, angles, weights))
    ready = qiskit.transpile(program, backend, optimization_level=3, seed_transpiler=0)
    gates = ready.num_nonlocal_gates()
    return ready.depth(lambda step: step.operation.name != "barrier"), gates
