"""The torch simulator against PennyLane, parameter shifts and its own other routes."""

import numpy as np
import pennylane as qml
import pytest
import torch

from qgraft.circuits.ansatz import basic_entangler, dressed_circuit, surface_circuit
from qgraft.circuits.circuit import Circuit, Op, Param, each_z, inert_weights
from qgraft.circuits.embeddings import angle_embedding
from qgraft.circuits.gates import GATES
from qgraft.errors import CircuitError
from qgraft.simulate.statevector import expvals, probabilities, state

TOLERANCE = {torch.float32: 1e-6, torch.float64: 1e-12}
N_WEIGHTS = 12


def random_param(rng, n_qubits):
    source = rng.choice(["angle", "weight", "weight", "constant"])
    index = int(rng.integers({"angle": n_qubits, "weight": N_WEIGHTS, "constant": 1}[source]))
    offset = float(rng.choice([0.0, 0.3, -np.pi / 2]))
    return Param(source, index, float(rng.choice([1.0, 1.0, 0.5, -1.5])), offset)


def random_circuit(seed):
    """Any gates in any order, after an embedding with or without Hadamards."""
    rng = np.random.default_rng(seed)
    n = 1 + seed % 8
    ops = [Op("H", (q,)) for q in range(n) if rng.random() < 0.3]
    ops += [Op(f"R{rng.choice(list('XY'))}", (q,), (Param("angle", q),)) for q in range(n)]
    gates = [name for name, gate in GATES.items() if gate.n_qubits <= n]
    for name in rng.choice(gates, size=rng.integers(1, 25)):
        qubits = tuple(int(q) for q in rng.permutation(n)[: GATES[name].n_qubits])
        params = tuple(random_param(rng, n) for _ in range(GATES[name].n_params))
        ops.append(Op(str(name), qubits, params))
    words = each_z(n)
    if rng.random() < 0.6:
        chosen = rng.permutation(n)[: rng.integers(1, n + 1)]
        words += (tuple((str(rng.choice(list("XYZ"))), int(q)) for q in chosen),)
    read = tuple(int(q) for q in rng.permutation(n)[: rng.integers(1, n + 1)])
    return Circuit(n, tuple(ops), words, read)


def random_numbers(circuit, dtype, batch=3, seed=0):
    rng = np.random.default_rng(seed)
    angles = torch.tensor(rng.normal(size=(batch, circuit.n_angles)), dtype=dtype)
    weights = torch.tensor(rng.uniform(0, 2 * np.pi, size=circuit.n_weights), dtype=dtype)
    return angles.requires_grad_(), weights.requires_grad_()


def value(param, angles, weights):
    if param.source == "constant":
        return torch.tensor(param.offset, dtype=torch.float64)
    source = angles if param.source == "angle" else weights
    return param.scale * source[..., param.index] + param.offset


def pennylane(circuit, angles, weights):
    """Return expectation values, probabilities and state of `default.qubit`."""
    paulis = {"X": qml.X, "Y": qml.Y, "Z": qml.Z}

    @qml.qnode(qml.device("default.qubit", wires=circuit.n_qubits), interface="torch")
    def node():
        if circuit.amplitudes:
            qml.AmplitudeEmbedding(angles, wires=range(circuit.n_qubits), normalize=True)
        for op in circuit.ops:
            params = [value(p, angles, weights) for p in op.params]
            if op.gate == "CU3":
                qml.ctrl(qml.U3(*params, wires=op.qubits[1]), control=op.qubits[0])
            else:
                getattr(qml, op.gate)(*params, wires=list(op.qubits))
        words = [qml.prod(*[paulis[p](q) for p, q in word]) for word in circuit.observables]
        values = [qml.expval(word) for word in words]  # made in the order they are returned
        probs = [qml.probs(wires=list(circuit.probabilities))] if circuit.probabilities else []
        return values, probs, qml.state()

    values, probs, final = node()
    batch = len(angles)
    columns = torch.stack([v.expand(batch) for v in values], dim=-1)
    return columns, *[p.expand(batch, -1) for p in probs], final.expand(batch, -1)


def gradients(output, inputs):
    torch.manual_seed(3)
    direction = torch.nn.functional.normalize(torch.randn(output.shape, dtype=torch.float64), dim=1)
    scalar = (output * direction.to(output)).sum()
    return torch.autograd.grad(scalar, inputs, allow_unused=True, materialize_grads=True)


def assert_close(ours, reference, dtype):
    scale = max(1.0, reference.abs().max().item() if reference.numel() else 1.0)
    wide = ours.to(reference.dtype)
    torch.testing.assert_close(wide, reference, rtol=0, atol=TOLERANCE[dtype] * scale)


@pytest.mark.parametrize("seed", range(64))
def test_random_circuits_agree_with_pennylane(seed):
    circuit = random_circuit(seed)
    for dtype in TOLERANCE:
        angles, weights = random_numbers(circuit, dtype, seed=seed)
        exact = [t.detach().double().requires_grad_() for t in (angles, weights)]
        values, probs, final = pennylane(circuit, *exact)
        ours = expvals(circuit, angles, weights)
        assert ours.dtype == dtype
        assert_close(ours, values, dtype)
        assert_close(probabilities(circuit, angles, weights), probs, dtype)
        assert_close(state(circuit, angles, weights), final, dtype)
        found = gradients(ours, (angles, weights))
        for gradient, reference in zip(found, gradients(values, exact), strict=True):
            assert_close(gradient, reference, dtype)


@pytest.mark.parametrize("n_qubits", [9, 11])
def test_many_qubits_agree_with_pennylane(n_qubits):
    circuit = surface_circuit(n_qubits, 2)
    angles, weights = random_numbers(circuit, torch.float32, batch=2)
    values, _ = pennylane(circuit, angles.detach().double(), weights.detach().double())
    assert_close(expvals(circuit, angles, weights), values, torch.float32)


@pytest.mark.parametrize("n_qubits", [3, 7])
def test_amplitudes_are_normalised_and_agree_with_pennylane(n_qubits):
    ops = (*basic_entangler(n_qubits, 2, "Y"), Op("CRZ", (0, 2), (Param("weight", 0),)))
    circuit = Circuit(n_qubits, ops, each_z(n_qubits), (1,), amplitudes=True)
    angles, weights = random_numbers(circuit, torch.float64)
    values, probs, final = pennylane(circuit, angles.detach(), weights.detach())
    assert_close(expvals(circuit, angles, weights), values, torch.float64)
    assert_close(probabilities(circuit, angles, weights), probs, torch.float64)
    assert_close(state(circuit, angles, weights), final, torch.float64)
    nothing = torch.zeros_like(angles)
    assert expvals(circuit, nothing, weights).isfinite().all()


@pytest.mark.parametrize("circuit", [surface_circuit(), dressed_circuit(4, 2)])
def test_gradients_agree_with_parameter_shifts(circuit):
    angles, weights = random_numbers(circuit, torch.float64)
    jacobian = torch.autograd.functional.jacobian(lambda w: expvals(circuit, angles, w), weights)
    for k in range(circuit.n_weights):
        shift = torch.zeros_like(weights)
        shift[k] = torch.pi / 2
        plus, minus = (expvals(circuit, angles, weights + s) for s in (shift, -shift))
        torch.testing.assert_close(jacobian[..., k], (plus - minus) / 2, rtol=0, atol=1e-10)


@pytest.mark.parametrize("circuit", [surface_circuit(3, 2), random_circuit(3), random_circuit(6)])
def test_gradcheck(circuit):
    angles, weights = random_numbers(circuit, torch.float64, batch=2)
    assert torch.autograd.gradcheck(lambda a, w: expvals(circuit, a, w), (angles, weights))


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("circuit", [surface_circuit(), random_circuit(5), random_circuit(21)])
def test_inert_weights_have_gradients_of_exactly_zero(circuit, dtype):
    angles, weights = random_numbers(circuit, dtype, batch=8)
    (gradient,) = gradients(expvals(circuit, angles, weights), (weights,))
    inert = list(inert_weights(circuit))
    assert (gradient[inert] == 0).all()


def test_the_published_circuit_uses_exactly_40_of_its_45_weights():
    circuit = surface_circuit()
    angles, weights = random_numbers(circuit, torch.float64, batch=8)
    (gradient,) = torch.autograd.grad(expvals(circuit, angles, weights).square().sum(), weights)
    assert (gradient != 0).sum() == 40
    assert (gradient == 0).nonzero().flatten().tolist() == [32, 35, 38, 41, 44]


def test_rx_and_ry_embeddings_are_one_model_after_shifting_the_first_phi():
    by_x, by_y = surface_circuit(rotation="X"), surface_circuit(rotation="Y")
    angles, weights = random_numbers(by_x, torch.float64)
    shift = torch.zeros_like(weights)
    shift[0:15:3] = -torch.pi / 2
    torch.testing.assert_close(
        expvals(by_x, angles, weights), expvals(by_y, angles, weights + shift), rtol=0, atol=1e-12
    )


def test_an_rz_embedding_carries_no_information():
    circuit = surface_circuit(rotation="Z")
    angles, weights = random_numbers(circuit, torch.float64)
    values = expvals(circuit, angles, weights)
    torch.testing.assert_close(values, values[:1].expand_as(values), rtol=0, atol=1e-13)


@pytest.mark.parametrize("n_qubits", [5, 8])
def test_the_norm_stays_one_through_many_layers(n_qubits):
    circuit = surface_circuit(n_qubits, 100)
    angles, weights = random_numbers(circuit, torch.float32)
    norm = torch.linalg.vector_norm(state(circuit, angles, weights), dim=1)
    torch.testing.assert_close(norm, torch.ones_like(norm), rtol=0, atol=2e-5)


def test_three_readouts_of_one_circuit_agree():
    circuit = random_circuit(20)
    angles, weights = random_numbers(circuit, torch.float64)
    n, kept = circuit.n_qubits, circuit.probabilities
    table = state(circuit, angles, weights).abs().square().reshape(3, *[2] * n)
    others = tuple(1 + q for q in range(n) if q not in kept)
    marginal = table.sum(dim=others) if others else table
    order = [1 + sorted(kept).index(q) for q in kept]
    expected = marginal.permute(0, *order).flatten(1)
    torch.testing.assert_close(probabilities(circuit, angles, weights), expected)
    for qubit in range(n):
        axes = tuple(1 + q for q in range(n) if q != qubit)
        p = table.sum(dim=axes) if axes else table
        torch.testing.assert_close(expvals(circuit, angles, weights)[:, qubit], p[:, 0] - p[:, 1])


@pytest.mark.parametrize("seed", [2, 4, 7])
@pytest.mark.parametrize("batch", [0, 1])
def test_any_batch_size(seed, batch):
    circuit = random_circuit(seed)
    angles, weights = random_numbers(circuit, torch.float32, batch=3)
    few = expvals(circuit, angles[:batch], weights)
    assert few.shape == (batch, len(circuit.observables))
    few.sum().backward()
    torch.testing.assert_close(few, expvals(circuit, angles, weights)[:batch])
    assert probabilities(circuit, angles[:batch], weights).shape[0] == batch


def test_circuits_without_angles_or_without_weights():
    still = Circuit(2, (Op("RX", (0,), (Param("weight", 0),)),), each_z(2))
    values = expvals(still, torch.zeros(3, 0), torch.tensor([torch.pi]))
    torch.testing.assert_close(values, torch.tensor([[-1.0, 1.0]]).expand(3, 2))
    plain = Circuit(2, angle_embedding(2), each_z(2))
    angles = torch.tensor([[0.3, 1.2]])
    torch.testing.assert_close(expvals(plain, angles, torch.zeros(0)), angles.cos())


def test_vmap_over_many_heads_and_their_gradients():
    for circuit in (surface_circuit(4, 2), surface_circuit(7, 1), dressed_circuit(3, 2)):
        angles = torch.randn(5, 6, circuit.n_angles, dtype=torch.float64)
        weights = torch.rand(5, circuit.n_weights, dtype=torch.float64)

        def loss(a, w, circuit=circuit):
            return expvals(circuit, a, w).square().sum()

        together = torch.func.vmap(torch.func.grad(loss, argnums=(0, 1)))(angles, weights)
        for k in range(5):
            inputs = angles[k].requires_grad_(), weights[k].requires_grad_()
            alone = torch.autograd.grad(loss(*inputs), inputs)
            for one, many in zip(alone, together, strict=True):
                torch.testing.assert_close(one, many[k])


def test_a_first_call_in_inference_mode_does_not_spoil_training():
    circuit = surface_circuit(3, 7)
    angles, weights = random_numbers(circuit, torch.float32)
    with torch.inference_mode():
        expvals(circuit, angles, weights)
    expvals(circuit, angles, weights).sum().backward()
    assert weights.grad.abs().sum() > 0


@pytest.mark.parametrize(
    ("angles", "weights", "message"),
    [
        (torch.zeros(2, 4), torch.zeros(45), r"angles of shape \(batch, 5\), got \(2, 4\)"),
        (torch.zeros(5), torch.zeros(45), r"angles of shape \(batch, 5\), got \(5,\)"),
        (torch.zeros(2, 5), torch.zeros(44), r"weights of shape \(45,\), got \(44,\)"),
        (torch.zeros(2, 5).double(), torch.zeros(45), "both be float32 or both float64"),
        (torch.zeros(2, 5).half(), torch.zeros(45).half(), "both be float32 or both float64"),
    ],
)
def test_numbers_that_do_not_fit_are_refused(angles, weights, message):
    with pytest.raises(CircuitError, match=message):
        expvals(surface_circuit(), angles, weights)


def test_a_readout_that_the_circuit_lacks_is_refused():
    angles, weights = torch.zeros(1, 5), torch.zeros(45)
    with pytest.raises(CircuitError, match="reads no probabilities"):
        probabilities(surface_circuit(), angles, weights)
    silent = Circuit(1, (), (), (0,))
    with pytest.raises(CircuitError, match="no observables"):
        expvals(silent, torch.zeros(1, 0), torch.zeros(0))
