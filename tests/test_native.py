"""The native kernels against PennyLane, the torch path and themselves on two threads."""

import os
import subprocess
import sys

import numpy as np
import pennylane as qml
import pytest
import torch

from qgraft.circuits.ansatz import dressed_circuit, strongly_entangling, surface_circuit
from qgraft.circuits.circuit import Circuit, Op, Param, each_z, inert_weights
from qgraft.circuits.gates import GATES
from qgraft.errors import CircuitError
from qgraft.heads.dressed import DressedHead
from qgraft.simulate import backends, native, statevector
from qgraft.simulate.lowering import lower
from qgraft.simulate.native import native_expvals, native_probabilities
from qgraft.simulate.threads import on_threads

TOLERANCE = {torch.float32: 1e-6, torch.float64: 1e-12}


def random_op(rng, name, n, sources):
    qubits = tuple(int(q) for q in rng.permutation(n)[: GATES[name].n_qubits])
    params = tuple(
        Param(
            str(rng.choice(sources)),
            int(rng.integers(n)),
            float(rng.choice([1.0, 0.5, -1.5])),
            float(rng.choice([0.0, 0.3])),
        )
        for _ in range(GATES[name].n_params)
    )
    return Op(name, qubits, params)


def random_circuit(seed, n, amplitudes=False, length=20):
    """Any gates on any qubits, angles anywhere, some runs on one pair, general Pauli words."""
    rng = np.random.default_rng(seed)
    sources = ["weight", "constant"] if amplitudes else ["angle", "weight", "constant"]
    gates = [name for name, gate in GATES.items() if gate.n_qubits <= n]
    ops = [random_op(rng, "RY", n, sources) for _ in range(n)]
    ops += [random_op(rng, str(name), n, sources) for name in rng.choice(gates, length)]
    if n > 1:
        pair = rng.permutation(n)[:2]
        for name in rng.choice(["U3", "Rot", "CNOT", "CU3", "H", "CRY", "SWAP", "CZ"], 12):
            op = random_op(rng, str(name), 2, ["weight"])
            ops.append(Op(op.gate, tuple(int(pair[q]) for q in op.qubits), op.params))
    letters = [str(letter) for letter in rng.choice(list("XYZ"), n)]
    word = tuple((letters[q], int(q)) for q in rng.permutation(n)[: rng.integers(1, n + 1)])
    outcomes = tuple(int(q) for q in rng.permutation(n)[: rng.integers(1, n + 1)])
    words = (*each_z(n), word) if seed % 3 else each_z(n)
    return Circuit(n, tuple(ops), words, outcomes, amplitudes)


def random_numbers(circuit, dtype, batch=3, seed=0):
    rng = np.random.default_rng(seed)
    angles = torch.tensor(rng.normal(size=(batch, circuit.n_angles)), dtype=dtype)
    weights = torch.tensor(rng.uniform(0, 2 * np.pi, circuit.n_weights), dtype=dtype)
    return angles.requires_grad_(), weights.requires_grad_()


def value_and_gradients(run, circuit, numbers, seed=0):
    output = run(circuit, *numbers)
    rng = np.random.default_rng(seed)
    direction = torch.tensor(rng.normal(size=output.shape))
    direction = (direction / max(1.0, float(direction.norm()))).to(output)
    loss = (output * direction).sum()
    if not loss.requires_grad:
        return output, *map(torch.zeros_like, numbers)
    return output, *torch.autograd.grad(loss, numbers, allow_unused=True, materialize_grads=True)


def exact(numbers):
    return [number.detach().double().requires_grad_() for number in numbers]


def assert_close(ours, references, dtype):
    for found, reference in zip(ours, references, strict=True):
        scale = max(1.0, reference.abs().max().item() if reference.numel() else 1.0)
        torch.testing.assert_close(
            found.double(), reference.detach(), rtol=0, atol=TOLERANCE[dtype] * scale
        )


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("n_qubits", range(1, 11))
def test_random_circuits_agree_with_the_torch_path(n_qubits, dtype):
    routes = (
        (native_expvals, statevector.expvals),
        (native_probabilities, statevector.probabilities),
    )
    for seed in range(8):
        circuit = random_circuit(100 * n_qubits + seed, n_qubits, amplitudes=seed == 7)
        batch = [3, 17, 1, 33][seed % 4] if n_qubits < 8 else 1 + seed % 3
        numbers = random_numbers(circuit, dtype, batch, seed)
        for run, reference in routes:
            ours = value_and_gradients(run, circuit, numbers)
            assert ours[0].dtype == dtype
            assert_close(ours, value_and_gradients(reference, circuit, exact(numbers)), dtype)


def pennylane_expvals(circuit, angles, weights):
    paulis = {"X": qml.X, "Y": qml.Y, "Z": qml.Z}

    def value(param):
        if param.source == "constant":
            return torch.tensor(param.offset, dtype=torch.float64)
        source = angles if param.source == "angle" else weights
        return param.scale * source[..., param.index] + param.offset

    @qml.qnode(qml.device("default.qubit", wires=circuit.n_qubits), interface="torch")
    def node():
        for op in circuit.ops:
            params = [value(param) for param in op.params]
            if op.gate == "CU3":
                qml.ctrl(qml.U3(*params, wires=op.qubits[1]), control=op.qubits[0])
            else:
                getattr(qml, op.gate)(*params, wires=list(op.qubits))
        return [
            qml.expval(qml.prod(*[paulis[p](q) for p, q in word])) for word in circuit.observables
        ]

    return torch.stack([torch.as_tensor(v).expand(len(angles)) for v in node()], dim=-1)


@pytest.mark.parametrize("seed", range(12))
def test_random_circuits_agree_with_pennylane(seed):
    circuit = random_circuit(seed, 1 + seed % 6)
    for dtype in TOLERANCE:
        numbers = random_numbers(circuit, dtype, seed=seed)
        ours = value_and_gradients(native_expvals, circuit, numbers)
        theirs = value_and_gradients(pennylane_expvals, circuit, exact(numbers))
        assert_close(ours, theirs, dtype)


@pytest.mark.parametrize("amplitudes", [False, True])
@pytest.mark.parametrize(("n_qubits", "batch"), [(10, 2), (11, 1), (13, 3), (14, 1)])
def test_a_sample_at_a_time_agrees_with_the_torch_path(n_qubits, batch, amplitudes):
    circuit = random_circuit(5, n_qubits, amplitudes)
    assert lower(circuit, "expvals", packed=True).shape[1] == n_qubits - 4
    for run, reference in (
        (native_expvals, statevector.expvals),
        (native_probabilities, statevector.probabilities),
    ):
        numbers = random_numbers(circuit, torch.float64, batch)
        ours = value_and_gradients(run, circuit, numbers)
        assert_close(ours, value_and_gradients(reference, circuit, numbers), torch.float64)


@pytest.mark.parametrize("circuit", [surface_circuit(3, 2), random_circuit(4, 3)])
def test_gradcheck(circuit):
    numbers = random_numbers(circuit, torch.float64, batch=2)
    assert torch.autograd.gradcheck(lambda a, w: native_expvals(circuit, a, w), numbers)


@pytest.mark.parametrize(
    ("circuit", "batch"), [(surface_circuit(5), 70), (surface_circuit(13, 1), 3)]
)
def test_two_threads_give_the_bits_of_one(circuit, batch, monkeypatch):
    monkeypatch.setattr(native, "THREADS_FROM", 0)
    numbers = random_numbers(circuit, torch.float32, batch)
    results = []
    for threads in (1, 2, 3):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        results.append(value_and_gradients(native_expvals, circuit, numbers))
    for other in results[1:]:
        assert all(torch.equal(*pair) for pair in zip(results[0], other, strict=True))


@pytest.mark.parametrize("batch", [0, 1])
@pytest.mark.parametrize("n_qubits", [3, 13])
def test_small_batches(batch, n_qubits):
    circuit = surface_circuit(n_qubits, 1)
    angles, weights = random_numbers(circuit, torch.float32, 2)
    few = native_expvals(circuit, angles[:batch], weights)
    assert few.shape == (batch, n_qubits)
    few.sum().backward()
    assert weights.grad is not None
    torch.testing.assert_close(few, native_expvals(circuit, angles, weights)[:batch])


def test_the_norm_stays_one_through_a_thousand_layers():
    ops = strongly_entangling(5, 1000)
    circuit = Circuit(5, ops, each_z(5), tuple(range(5)))
    _, weights = random_numbers(circuit, torch.float32)
    total = native_probabilities(circuit, torch.zeros(2, 0), weights).sum(1)
    torch.testing.assert_close(total, torch.ones(2), rtol=0, atol=1e-5)


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_inert_weights_have_gradients_of_exactly_zero(dtype):
    circuit = surface_circuit()
    numbers = random_numbers(circuit, dtype, 20)
    *_, gradient = value_and_gradients(native_expvals, circuit, numbers)
    assert (gradient == 0).nonzero().flatten().tolist() == list(inert_weights(circuit))


def test_huge_angles_and_zero_amplitudes():
    circuit = Circuit(1, (Op("RY", (0,), (Param("angle", 0),)),), each_z(1))
    angles = torch.tensor([[1e6], [3e5]], dtype=torch.float64)
    found = native_expvals(circuit, angles, torch.zeros(0, dtype=torch.float64))
    torch.testing.assert_close(found, angles.cos(), rtol=0, atol=1e-9)
    silent = Circuit(2, (), each_z(2), amplitudes=True)
    nothing = torch.zeros(1, 4, requires_grad=True)
    native_expvals(silent, nothing, torch.zeros(0)).sum().backward()
    assert (nothing.grad == 0).all()


def test_a_second_backward_pass_recomputes_the_state():
    circuit = dressed_circuit(4, 2)
    angles, weights = random_numbers(circuit, torch.float64)
    loss = native_expvals(circuit, angles, weights).square().sum()
    first = torch.autograd.grad(loss, (angles, weights), retain_graph=True)
    second = torch.autograd.grad(loss, (angles, weights))
    assert all(torch.equal(*pair) for pair in zip(first, second, strict=True))


def test_second_derivatives_are_refused():
    circuit = surface_circuit(2, 1)
    angles, weights = random_numbers(circuit, torch.float64)
    loss = native_expvals(circuit, angles, weights).square().sum()
    with pytest.raises(CircuitError, match=r"first derivatives only; use backend='torch'"):
        torch.autograd.grad(loss, weights, create_graph=True)


@pytest.mark.parametrize(
    ("angles", "weights", "message"),
    [
        (torch.zeros(2, 4), torch.zeros(45), r"angles of shape \(batch, 5\), got \(2, 4\)"),
        (torch.zeros(2, 5), torch.zeros(44), r"weights of shape \(45,\), got \(44,\)"),
        (torch.zeros(2, 5).double(), torch.zeros(45), "both be float32 or both float64"),
    ],
)
def test_numbers_that_do_not_fit_are_refused(angles, weights, message):
    for run in (native_expvals, backends.expvals):
        with pytest.raises(CircuitError, match=message):
            run(surface_circuit(), angles, weights)


def test_missing_readouts_are_refused():
    with pytest.raises(CircuitError, match="reads no probabilities"):
        native_probabilities(surface_circuit(), torch.zeros(1, 5), torch.zeros(45))
    with pytest.raises(CircuitError, match="no observables"):
        native_expvals(Circuit(1, (), (), (0,)), torch.zeros(1, 0), torch.zeros(0))


def test_states_that_do_not_fit_into_memory_are_refused_with_their_size():
    circuit = surface_circuit(20, 1)
    angles = torch.zeros(1, 20).expand(10_000_000, 20)
    with pytest.raises(CircuitError, match=r"20 qubits need \d[\d,]+ bytes"):
        native_expvals(circuit, angles, torch.zeros(60, requires_grad=True))


def test_backends_are_chosen_by_place_and_device():
    angles, weights = torch.zeros(2, 5), torch.zeros(45)
    assert backends.active_backend(angles, weights) == "native"
    assert backends.active_backend(angles, weights, "torch") == "torch"
    assert backends.active_backend(angles.to("meta"), weights.to("meta")) == "torch"
    with pytest.raises(CircuitError, match=r"cannot run torch\.float16 numbers"):
        backends.active_backend(angles.half(), weights, "native")
    with pytest.raises(CircuitError, match="backend 'gpu' is unknown"):
        backends.active_backend(angles, weights, "gpu")

    def loss(weights):
        return backends.expvals(surface_circuit(), angles, weights).sum()

    under_torch = torch.func.grad(loss)(weights)
    weights.requires_grad_()
    (under_native,) = torch.autograd.grad(loss(weights), weights)
    torch.testing.assert_close(under_torch, under_native, rtol=0, atol=1e-6)
    head = DressedHead(3, 2)
    assert head.active_backend(torch.zeros(1, 3)) == "native"
    assert DressedHead(3, 2, backend="torch").active_backend(torch.zeros(1, 3)) == "torch"


def test_both_backends_give_one_answer_for_both_readouts():
    circuit = random_circuit(8, 4)
    numbers = random_numbers(circuit, torch.float64)
    for read in (backends.expvals, backends.probabilities):
        found = [read(circuit, *numbers, backend) for backend in ("auto", "native", "torch")]
        torch.testing.assert_close(found[0], found[2], rtol=0, atol=1e-12)
        assert torch.equal(found[0], found[1])


def test_kernels_work_where_no_cache_folder_can_be_written():
    code = (
        "import torch\n"
        "from qgraft.simulate.compiled import compiled\n"
        "print(compiled(lambda x: x + 1)(1))\n"
    )
    environment = os.environ | {"NUMBA_CACHE_DIR": "/dev/null/nowhere"}
    found = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )
    assert found.stdout == "2\n", found.stderr


@pytest.mark.parametrize("openmp", [True, False])
def test_work_is_shared_out_once_and_its_faults_come_back(monkeypatch, openmp):
    if not openmp:
        monkeypatch.setattr("qgraft.simulate.threads._openmp", lambda: None)
    done = []
    on_threads(done.append, 3)
    assert sorted(done) == [0, 1, 2]

    def broken(share):
        if share == 1:
            raise CircuitError("no memory")

    with pytest.raises(CircuitError, match="no memory"):
        on_threads(broken, 2)
