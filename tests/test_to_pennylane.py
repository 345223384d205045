"""Circuits sent to PennyLane and OpenQASM mean what they meant."""

import re

import numpy as np
import pennylane as qml
import pytest
import torch

from layer_pairs import inputs_of
from qgraft.circuits.ansatz import dressed_circuit, surface_circuit
from qgraft.circuits.circuit import Circuit, Op, Param, each_z
from qgraft.circuits.gates import GATES
from qgraft.devices.to_pennylane import draw_mpl, to_openqasm, to_qnode, to_tape
from qgraft.devices.torch_layer import TorchLayer
from qgraft.errors import CircuitError
from qgraft.simulate.backends import expvals, probabilities


def on_first_weights(name):
    gate = GATES[name]
    return Op(name, (2, 0, 1)[: gate.n_qubits], tuple(map(_weight, range(gate.n_params))))


def _weight(index):
    return Param("weight", index)


EVERY_GATE = Circuit(
    3,
    (*map(on_first_weights, GATES), Op("RX", (1,), (Param("angle", 1, -0.5, 0.2),))),
    (*each_z(3), (("X", 2), ("Y", 0))),
    (2, 0),
)


def numbers(circuit, batch=3):
    return inputs_of(batch, circuit.n_angles), inputs_of(circuit.n_weights)


@pytest.mark.parametrize("circuit", [EVERY_GATE, surface_circuit(3, 2), dressed_circuit(4, 2)])
def test_circuits_run_on_pennylane(circuit):
    angles, weights = numbers(circuit)
    results = to_qnode(circuit)(angles, weights)
    words = len(circuit.observables)
    values = expvals(circuit, angles, weights)
    torch.testing.assert_close(torch.stack(results[:words], 1), values, rtol=0, atol=1e-12)
    if circuit.probabilities:
        torch.testing.assert_close(results[words], probabilities(circuit, angles, weights))


def test_amplitudes_run_on_pennylane():
    circuit = Circuit(2, (Op("CRY", (0, 1), (Param("weight"),)),), each_z(2), amplitudes=True)
    angles, weights = numbers(circuit)
    results = torch.stack(to_qnode(circuit)(angles, weights), 1)
    torch.testing.assert_close(results, expvals(circuit, angles, weights))


def test_a_circuit_comes_back_from_pennylane_as_it_went():
    circuit = surface_circuit(3, 2)
    node = to_qnode(circuit)
    wrapped = qml.QNode(lambda inputs, weights: node.func(inputs, weights), node.device)
    layer = TorchLayer(wrapped, {"weights": circuit.n_weights})
    layer(torch.zeros(1, 3))
    (path,) = layer._paths.values()
    assert path.circuits == (circuit,)


QASM = {
    "h": "Hadamard", "x": "PauliX", "y": "PauliY", "z": "PauliZ", "s": "S", "t": "T", "sx": "SX",
    "rx": "RX", "ry": "RY", "rz": "RZ", "u1": "PhaseShift", "u2": "U2", "u3": "U3", "cx": "CNOT",
    "cy": "CY", "cz": "CZ", "crx": "CRX", "cry": "CRY", "crz": "CRZ",
    "cu1": "ControlledPhaseShift", "swap": "SWAP",
    "ccx": "Toffoli", "id": "Identity", "sdg": "S", "tdg": "T", "ch": "CH", "cswap": "CSWAP",
}  # fmt: skip


def read_qasm(text, n_qubits):
    """Run OpenQASM 2 and return the outcome probabilities."""
    with qml.queuing.AnnotatedQueue() as queue:
        for line in text.splitlines():
            match = re.fullmatch(
                r"(?!qreg|creg)(\w+)(?:\((.*)\))? ((?:q\[\d+\],?)+);", line.strip()
            )
            if match is None:
                assert line.split()[:1] in ([], ["OPENQASM"], ["include"], ["qreg"], ["creg"]) or (
                    line.startswith("measure")
                ), line
                continue
            name, params, wires = match.groups()
            gate = getattr(qml, QASM[name])
            gate = qml.adjoint(gate) if name.endswith("dg") else gate
            values = [float(p) for p in params.split(",")] if params else []
            gate(*values, wires=[int(w) for w in re.findall(r"\d+", wires)])
        qml.probs(wires=range(n_qubits))
    tape = qml.tape.QuantumScript.from_queue(queue)
    return qml.device("default.qubit").execute(tape)


@pytest.mark.parametrize("circuit", [EVERY_GATE, surface_circuit(3, 1)])
def test_openqasm_means_the_same_circuit(circuit):
    angles, weights = numbers(circuit, batch=1)
    everything = Circuit(circuit.n_qubits, circuit.ops, (), tuple(range(circuit.n_qubits)))
    expected = probabilities(everything, angles, weights)[0].numpy()
    text = to_openqasm(circuit, angles[0], weights)
    assert text.startswith("OPENQASM 2.0;")
    np.testing.assert_allclose(read_qasm(text, circuit.n_qubits), expected, atol=1e-12)


def test_drawing_shows_every_wire():
    import matplotlib

    matplotlib.use("Agg")
    figure = draw_mpl(surface_circuit(3, 1))
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert {"0", "1", "2"} <= set(texts)
    assert any("RX" in text for text in texts)
    matplotlib.pyplot.close(figure)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda c: to_tape(c, torch.zeros(2), torch.zeros(18)), r"angles \(3,\) or \(batch, 3\)"),
        (lambda c: to_tape(c, torch.zeros(3), torch.zeros(1)), r"weights \(18,\), got \(1,\)"),
        (lambda c: to_openqasm(c, torch.zeros(2, 3), torch.zeros(18)), "holds one sample"),
    ],
)
def test_numbers_must_fit_the_circuit(make, message):
    with pytest.raises(CircuitError, match=message):
        make(surface_circuit(3, 2))
