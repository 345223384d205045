"""Noise: the Pauli-basis simulator against PennyLane's density matrices and by other routes."""

import numpy as np
import pennylane as qml
import pytest
import torch

from qgraft.circuits.ansatz import dressed_circuit, surface_circuit
from qgraft.circuits.circuit import Circuit, Op, Param, each_z
from qgraft.circuits.gates import GATES
from qgraft.circuits.qcnn import qcnn_circuit
from qgraft.errors import CircuitError
from qgraft.simulate.density import noisy_expvals, noisy_probabilities
from qgraft.simulate.noise import Channel, NoiseModel, depolarizing, pauli_transfer
from qgraft.simulate.shift import parameter_shift
from qgraft.simulate.statevector import expvals, probabilities

TOLERANCE = {torch.float32: 1e-6, torch.float64: 2e-12}
CHANNELS = {
    "depolarizing": qml.DepolarizingChannel,
    "amplitude-damping": qml.AmplitudeDamping,
    "phase-damping": qml.PhaseDamping,
    "bit-flip": qml.BitFlip,
}
MIXED = NoiseModel(
    after=(Channel("phase-damping", 0.03), Channel("amplitude-damping", 0.04)),
    by_gate=(
        ("CNOT", (Channel("depolarizing", 0.05),)),
        ("H", ()),
        ("RX", (Channel("bit-flip", 0.1),)),
    ),
    readout=(0.02, 0.02),
)


def random_circuit(seed):
    """Any gates in any order, angles anywhere, some qubits without a gate."""
    rng = np.random.default_rng(seed)
    n = 1 + seed % 4
    ops = [Op(f"R{rng.choice(list('XY'))}", (q,), (Param("angle", q),)) for q in range(n)]
    gates = [name for name, gate in GATES.items() if gate.n_qubits <= n]
    for name in rng.choice(gates, size=rng.integers(1, 16)):
        qubits = tuple(int(q) for q in rng.permutation(n)[: GATES[name].n_qubits])
        params = []
        for _ in range(GATES[name].n_params):
            source = str(rng.choice(["angle", "weight", "constant"]))
            index = int(rng.integers({"angle": n, "weight": 5, "constant": 1}[source]))
            params.append(Param(source, index, float(rng.choice([1.0, -0.5])), 0.3))
        ops.append(Op(str(name), qubits, tuple(params)))
    words = (*each_z(n), (("X", 0),), tuple(("Y", q) for q in range(n)))
    read = tuple(int(q) for q in rng.permutation(n)[: rng.integers(1, n + 1)])
    return Circuit(n, tuple(ops), words, read)


def random_numbers(circuit, dtype, batch=3, seed=0):
    rng = np.random.default_rng(seed)
    angles = torch.tensor(rng.normal(size=(batch, circuit.n_angles)), dtype=dtype)
    weights = torch.tensor(rng.uniform(0, 2 * np.pi, size=circuit.n_weights), dtype=dtype)
    return angles.requires_grad_(), weights.requires_grad_()


def value(param, angles, weights):
    if param.source == "constant":
        return param.offset
    source = angles if param.source == "angle" else weights
    return param.scale * source[param.index] + param.offset


def pennylane(circuit, angles, weights, noise):
    """Return expectation values and probabilities of `default.mixed`, in NumPy.

    With torch its RZ works in single precision.
    """
    device = qml.device("default.mixed", wires=circuit.n_qubits)
    # its argument `readout_prob` raises a TypeError in 0.45; this is what it means
    device.readout_err = [lambda wire: qml.BitFlip(noise.readout[0], wires=wire)]
    paulis = {"X": qml.X, "Y": qml.Y, "Z": qml.Z}
    numbers = weights.detach().double().numpy()

    @qml.qnode(device)
    def node(row):
        if circuit.amplitudes:
            qml.AmplitudeEmbedding(row, wires=range(circuit.n_qubits), normalize=True)
        for op in circuit.ops:
            params = [value(p, row, numbers) for p in op.params]
            if op.gate == "CU3":
                qml.ctrl(qml.U3(*params, wires=op.qubits[1]), control=op.qubits[0])
            else:
                getattr(qml, op.gate)(*params, wires=list(op.qubits))
            for qubit in op.qubits:
                for channel in noise.channels(op.gate):
                    CHANNELS[channel.kind](channel.strength, wires=qubit)
        words = [qml.prod(*[paulis[p](q) for p, q in word]) for word in circuit.observables]
        values = [qml.expval(word) for word in words]
        probs = [qml.probs(wires=list(circuit.probabilities))] if circuit.probabilities else []
        return values + probs

    found, n = [node(row) for row in angles.detach().double().numpy()], len(circuit.observables)
    values = np.array([row[:n] for row in found], dtype=float) if n else None
    probs = np.array([row[n] for row in found]) if circuit.probabilities else None
    return values, probs


def distance(ours, reference):
    return np.abs(ours.detach().double().numpy() - reference).max()


@pytest.mark.parametrize("seed", range(16))
def test_random_noisy_circuits_agree_with_pennylane(seed):
    circuit = random_circuit(seed)
    noise = MIXED if seed % 2 else depolarizing(0.02, 0.05, readout=0.03)
    exact = random_numbers(circuit, torch.float64, seed=seed)
    values, probs = pennylane(circuit, *exact, noise)
    for dtype, tolerance in TOLERANCE.items():
        numbers = [t.detach().to(dtype) for t in exact]
        ours = noisy_expvals(circuit, *numbers, noise)
        assert ours.dtype == dtype
        assert distance(ours, values) < tolerance
        assert distance(noisy_probabilities(circuit, *numbers, noise), probs) < tolerance


@pytest.mark.parametrize("seed", range(8))
def test_gradients_under_noise_agree_with_parameter_shifts(seed):
    circuit = random_circuit(seed)
    angles, weights = random_numbers(circuit, torch.float64, seed=seed)

    def measure(*arguments):
        return noisy_expvals(*arguments, MIXED)

    values = measure(circuit, angles, weights)
    direction = torch.cos(torch.arange(values.numel(), dtype=torch.float64)).reshape(values.shape)
    inputs = [t for t in (angles, weights) if t.numel()]
    found = torch.autograd.grad((values * direction).sum(), inputs, materialize_grads=True)
    wanted = parameter_shift(measure, circuit, angles.detach(), weights.detach(), direction)
    for ours, reference in zip(found, wanted, strict=False):
        torch.testing.assert_close(ours, reference, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    "circuit",
    [surface_circuit(), dressed_circuit(4, 2), qcnn_circuit("so4", "zx", n_qubits=4, n_read=2)],
    ids=["surface", "dressed", "amplitudes"],
)
def test_named_circuits_agree_with_pennylane(circuit):
    found = noisy_probabilities if circuit.probabilities else noisy_expvals
    exact = [t.detach() for t in random_numbers(circuit, torch.float64, batch=2)]
    # they add 1e-14 under the roots of their channels: a hundred gates make 1e-12 of it
    noise = NoiseModel((Channel("depolarizing", 0.02), Channel("bit-flip", 0.03)), (), (0.01, 0.01))
    wanted = pennylane(circuit, *exact, noise)[bool(circuit.probabilities)]
    for dtype, tolerance in TOLERANCE.items():
        ours = found(circuit, *(t.to(dtype) for t in exact), noise)
        assert distance(ours, wanted) < tolerance


@pytest.mark.parametrize("seed", range(6))
def test_no_noise_is_the_exact_simulator(seed):
    circuit = random_circuit(seed)
    angles, weights = random_numbers(circuit, torch.float64, batch=2)
    for noisy, exact in ((noisy_expvals, expvals), (noisy_probabilities, probabilities)):
        same = noisy(circuit, angles, weights, NoiseModel())
        torch.testing.assert_close(same, exact(circuit, angles, weights), rtol=0, atol=1e-12)


def test_forwards_and_backwards_agree():
    """A batch smaller than the read-out runs forwards, a larger one backwards."""
    circuit = random_circuit(7)
    angles, weights = random_numbers(circuit, torch.float64, batch=100)
    whole = noisy_probabilities(circuit, angles, weights, MIXED)
    single = [noisy_probabilities(circuit, row[None], weights, MIXED) for row in angles]
    torch.testing.assert_close(torch.cat(single), whole, rtol=0, atol=1e-13)
    assert noisy_probabilities(circuit, angles[:0], weights, MIXED).shape == (0, whole.shape[1])


def test_misread_outcomes_follow_the_confusion_matrix():
    circuit = Circuit(2, surface_circuit(2, 1).ops, each_z(2), (0, 1))
    noise = NoiseModel(readout=(0.02, 0.09))
    angles, weights = random_numbers(circuit, torch.float64)
    clean = probabilities(circuit, angles, weights)
    wanted = clean @ torch.tensor(np.kron(noise.confusion(), noise.confusion())).T
    found = noisy_probabilities(circuit, angles, weights, noise)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-14)
    values = noisy_expvals(circuit, angles, weights, noise)
    signs = torch.tensor([[1.0, 1], [1, -1], [-1, 1], [-1, -1]], dtype=torch.float64)
    torch.testing.assert_close(values, wanted @ signs, rtol=0, atol=1e-14)


@pytest.mark.parametrize("kind", CHANNELS)
@pytest.mark.parametrize("strength", [0.0, 0.3, 1.0])
def test_channels_are_those_of_pennylane(kind, strength):
    channel = Channel(kind, strength)
    theirs = np.array(CHANNELS[kind](strength, wires=0).kraus_matrices())
    ours = pauli_transfer(channel.kraus())
    # they add 1e-14 under a root
    np.testing.assert_allclose(ours, pauli_transfer(theirs), atol=1e-13 if strength < 1 else 2e-7)
    np.testing.assert_allclose(ours[0], [1, 0, 0, 0], atol=1e-15)  # the trace is kept
    weights = channel.pauli_weights()
    if weights is not None:
        signs = np.array([[1, 1, 1, 1], [1, 1, -1, -1], [1, -1, 1, -1], [1, -1, -1, 1]])
        np.testing.assert_allclose(np.diag(ours), signs @ weights, atol=1e-15)


def test_full_depolarising_leaves_nothing():
    circuit = surface_circuit(3, 1)
    angles, weights = random_numbers(circuit, torch.float64)
    assert noisy_expvals(circuit, angles, weights, depolarizing(0.75)).abs().max() < 1e-15


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Channel("thermal", 0.1), "channel 'thermal' is unknown"),
        (lambda: Channel("bit-flip", 1.5), "a probability from 0 to 1, got 1.5"),
        (lambda: Channel("bit-flip", float("nan")), "a probability from 0 to 1, got nan"),
        (lambda: NoiseModel(readout=(0.1, -1)), "a read-out error must be a probability"),
        (lambda: NoiseModel(by_gate=(("CX", ()),)), "noise after unknown gate 'CX'"),
    ],
)
def test_wrong_noise_is_refused(build, message):
    with pytest.raises(CircuitError, match=message):
        build()


def test_wrong_circuits_are_refused():
    wide = dressed_circuit(10, 1)
    numbers = random_numbers(wide, torch.float32)
    with pytest.raises(CircuitError, match=r"of 10 qubits is too large \(at most 9\)"):
        noisy_expvals(wide, *numbers, MIXED)
    with pytest.raises(CircuitError, match="reads no probabilities out"):
        noisy_probabilities(wide, *numbers, MIXED)
    with pytest.raises(CircuitError, match="has no observables"):
        noisy_expvals(qcnn_circuit(n_qubits=4), *numbers, MIXED)
