"""Finite shots, gradients from measurements, trajectories and what is done against noise."""

import numpy as np
import pytest
import torch

from qgraft.circuits.ansatz import dressed_circuit, surface_circuit
from qgraft.circuits.circuit import Circuit, Op, Param, each_z
from qgraft.circuits.folding import fold, inverse
from qgraft.circuits.gates import GATES
from qgraft.circuits.qcnn import qcnn_circuit
from qgraft.errors import CircuitError, ModelError
from qgraft.heads.dense import DenseHead
from qgraft.heads.dressed import DressedHead
from qgraft.heads.measured import MeasuredHead, measured_head
from qgraft.heads.qcnn import QcnnHead
from qgraft.seeds import torch_stream
from qgraft.simulate.density import noisy_expvals, noisy_probabilities
from qgraft.simulate.execution import Execution, richardson, run_expvals, run_probabilities
from qgraft.simulate.noise import Channel, NoiseModel, depolarizing
from qgraft.simulate.sampling import (
    draw_counts,
    sample_expvals,
    sample_probabilities,
    settings_of,
)
from qgraft.simulate.shift import open_circuit, parameter_shift, spsa
from qgraft.simulate.statevector import expvals, probabilities
from qgraft.simulate.trajectories import trajectory_probabilities

DAMPED = NoiseModel(
    after=(Channel("amplitude-damping", 0.08), Channel("bit-flip", 0.02)), readout=(0.01, 0.05)
)


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def numbers(circuit, batch=4, seed=0, dtype=torch.float64):
    random = np.random.default_rng(seed)
    angles = torch.tensor(random.normal(size=(batch, circuit.n_angles)), dtype=dtype)
    weights = torch.tensor(random.uniform(0, 6, size=circuit.n_weights), dtype=dtype)
    return angles, weights


def pauli_circuit():
    """Words that need three settings, one of which serves two words."""
    circuit = surface_circuit(3, 1)
    words = (
        (("Z", 0), ("Z", 1)),
        (("X", 0),),
        (("Y", 1), ("X", 2)),
        (("Z", 2),),
        (("X", 0), ("Z", 1)),
    )
    return Circuit(3, circuit.ops, words)  # fmt: skip


@pytest.mark.parametrize("shots", [1, 3, 1000])
def test_counts_add_up_and_impossible_outcomes_are_never_seen(shots):
    table = torch.tensor([[0.25, 0.0, 0.5, 0.25], [0.0, 1.0, 0.0, 0.0]])
    counts = draw_counts(table, shots, rng())
    assert (counts.sum(1) == shots).all()
    assert counts[0, 1] == 0
    assert counts[1].tolist() == [0, shots, 0, 0]


def test_counts_are_multinomial():
    table = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64)
    counts = draw_counts(table.expand(20000, 4), 50, rng())
    covariance = torch.cov(counts.T)
    wanted = 50 * (torch.diag(table) - torch.outer(table, table))
    assert (counts.mean(0) - 50 * table).abs().max() < 5 * (50 * 0.25 / 20000) ** 0.5
    assert (covariance - wanted).abs().max() < 0.5


@pytest.mark.parametrize("shots", [0, -1, 1.5, True, 10**10])
def test_impossible_numbers_of_shots_are_refused(shots):
    with pytest.raises(CircuitError, match="shots must be an integer from 1 to 1,000,000,000"):
        draw_counts(torch.ones(1, 2) / 2, shots, rng())


def test_words_share_settings_where_their_letters_agree():
    settings = settings_of(pauli_circuit())
    assert [setting.words for setting in settings] == [(0, 3), (1, 2), (4,)]
    assert len(settings_of(surface_circuit())) == 1


@pytest.mark.parametrize("shots", [1, 7, 1024])
def test_sampled_values_are_unbiased_with_the_variance_of_a_coin(shots):
    circuit, repeats = pauli_circuit(), 400
    angles, weights = numbers(circuit, batch=1)
    exact = expvals(circuit, angles, weights)
    many = sample_expvals(circuit, angles.expand(repeats, -1), weights, shots, rng())
    sigma = ((1 - exact.square()) / shots / repeats).sqrt()
    assert ((many.mean(0) - exact[0]).abs() < 5 * sigma[0] + 1e-12).all()
    assert (many.var(0) / (1 - exact[0].square()) * shots - 1).abs().max() < 0.5


def test_sampled_probabilities_are_unbiased_and_seeded():
    circuit = qcnn_circuit(n_qubits=4, n_read=2)
    angles, weights = numbers(circuit, batch=1)
    rows = angles.expand(300, -1)
    exact = probabilities(circuit, angles, weights)
    found = sample_probabilities(circuit, rows, weights, 100, rng(1))
    sigma = (exact * (1 - exact) / 100 / 300).sqrt()
    assert ((found.mean(0) - exact[0]).abs() < 5 * sigma[0]).all()
    assert torch.equal(found, sample_probabilities(circuit, rows, weights, 100, rng(1)))
    assert not torch.equal(found, sample_probabilities(circuit, rows, weights, 100, rng(2)))


def test_straight_through_has_the_gradient_of_the_exact_values():
    circuit = pauli_circuit()
    angles, weights = numbers(circuit)
    weights.requires_grad_()
    (found,) = torch.autograd.grad(
        sample_expvals(circuit, angles, weights, 10, rng()).sum(), weights
    )
    (wanted,) = torch.autograd.grad(expvals(circuit, angles, weights).sum(), weights)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-12)


def every_gate():
    """All gates with parameters, weights used twice, scaled and shifted."""
    ops = [Op("H", (q,)) for q in range(3)]
    at = 0
    for k, (name, gate) in enumerate(GATES.items()):
        params = tuple(
            Param(("weight", "angle")[k % 2], (at + j) % 5, -0.5, 0.2) for j in range(gate.n_params)
        )
        at += gate.n_params
        ops.append(Op(name, ((k % 3), (k + 1) % 3, (k + 2) % 3)[: gate.n_qubits], params))
    return Circuit(3, tuple(ops), each_z(3))  # fmt: skip


def test_parameter_shifts_agree_with_autograd_for_every_gate():
    circuit = every_gate()
    angles, weights = (t.requires_grad_() for t in numbers(circuit))
    values = expvals(circuit, angles, weights)
    direction = torch.cos(torch.arange(values.numel(), dtype=torch.float64)).reshape(values.shape)
    wanted = torch.autograd.grad((values * direction).sum(), (angles, weights))
    found = parameter_shift(expvals, circuit, angles.detach(), weights.detach(), direction)
    for ours, reference in zip(found, wanted, strict=True):
        torch.testing.assert_close(ours, reference, rtol=0, atol=1e-12)


def test_an_opened_circuit_is_the_same_function():
    circuit = every_gate()
    angles, weights = numbers(circuit)
    opened = open_circuit(circuit)
    rows = opened.numbers(angles, weights)
    assert rows.shape[1] == sum(GATES[op.gate].n_params for op in circuit.ops)
    same = expvals(opened.circuit, rows, weights[:0])
    torch.testing.assert_close(same, expvals(circuit, angles, weights), rtol=0, atol=1e-12)


def test_parameter_shifts_of_amplitude_circuits_move_weights_only():
    circuit = qcnn_circuit("so4", "zx", n_qubits=4)
    angles, weights = numbers(circuit)
    weights.requires_grad_()
    (wanted,) = torch.autograd.grad(probabilities(circuit, angles, weights)[:, 0].sum(), weights)
    how = Execution(gradient="parameter-shift")
    found = run_probabilities(how, circuit, angles, weights, rng())[:, 0].sum()
    torch.testing.assert_close(torch.autograd.grad(found, weights)[0], wanted, rtol=0, atol=1e-12)
    with pytest.raises(CircuitError, match="amplitudes have no gradient from measurements"):
        run_probabilities(how, circuit, angles.requires_grad_(), weights, rng()).sum().backward()


def test_spsa_points_along_the_gradient_on_average():
    circuit = dressed_circuit(2, 1)
    angles, weights = numbers(circuit, batch=2)
    by_values = torch.ones(2, 2, dtype=torch.float64)
    wanted = parameter_shift(expvals, circuit, angles, weights, by_values)
    estimator = spsa(rng(), size=0.01)
    draws = [estimator(expvals, circuit, angles, weights, by_values) for _ in range(3000)]
    for ours, reference in zip(zip(*draws, strict=True), wanted, strict=True):
        stack = torch.stack(ours)
        sigma = stack.std(0) / len(draws) ** 0.5
        assert ((stack.mean(0) - reference).abs() < 5 * sigma + 1e-4).all()


@pytest.mark.parametrize("gradient", ["straight-through", "parameter-shift", "spsa"])
def test_a_head_learns_from_shots(gradient):
    with torch_stream(3, "head"):
        head = DressedHead(2, 2, n_qubits=2, depth=1)
        features = torch.randn(32, 2)
    labels = (features[:, 0] > 0).long()
    model = measured_head(head, Execution(shots=200, gradient=gradient))
    optimiser = torch.optim.Adam(model.parameters(), 0.1)
    losses = []
    for _ in range(40):
        loss = torch.nn.functional.cross_entropy(model(features), labels)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert np.mean(losses[-5:]) < 0.6 * losses[0]


@pytest.mark.parametrize("amplitudes", [False, True])
def test_trajectories_agree_with_the_density_matrix(amplitudes):
    circuit = (
        qcnn_circuit("so4", "zx", n_qubits=4)
        if amplitudes
        else Circuit(3, surface_circuit(3, 1).ops, (), (2, 0))
    )
    angles, weights = numbers(circuit, batch=2)
    exact = noisy_probabilities(circuit, angles, weights, DAMPED)
    clean = probabilities(circuit, angles, weights)
    found = trajectory_probabilities(circuit, angles, weights, DAMPED, rng(), 8000)
    sigma = (exact * (1 - exact) / 8000).sqrt()
    assert ((found - exact).abs() < 5 * sigma).all()
    assert (clean - exact).abs().max() > 10 * sigma.max()


def test_trajectories_of_pauli_noise_have_an_unbiased_gradient():
    circuit, noise = Circuit(2, dressed_circuit(2, 1).ops, (), (1,)), depolarizing(0.1)
    angles, weights = numbers(circuit, batch=1)
    weights.requires_grad_()

    def gradient(outcomes):
        return torch.autograd.grad(outcomes[:, 0].sum(), weights)[0]

    wanted = gradient(noisy_probabilities(circuit, angles, weights, noise))
    found = gradient(trajectory_probabilities(circuit, angles, weights, noise, rng(), 20000))
    assert (found - wanted).abs().max() < 0.02
    with pytest.raises(CircuitError, match="amplitude damping have no unbiased gradient"):
        trajectory_probabilities(circuit, angles, weights, DAMPED, rng())


@pytest.mark.parametrize("name", GATES)
def test_inverses_undo_every_gate(name):
    gate = GATES[name]
    params = tuple(Param("constant", offset=0.4 + k) for k in range(gate.n_params))
    op = Op(name, tuple(range(gate.n_qubits)), params)
    back = inverse(op)
    product = GATES[back.gate].matrix([p.offset for p in back.params]) @ gate.matrix(
        [p.offset for p in params]
    )
    phase = product[0, 0]
    assert abs(abs(phase) - 1) < 1e-12
    np.testing.assert_allclose(product, phase * np.eye(len(product)), atol=1e-12)


def test_folding_keeps_the_meaning_and_multiplies_the_noise():
    circuit = surface_circuit(3, 1)
    angles, weights = numbers(circuit)
    folded = fold(circuit, 3)
    assert len(folded.ops) == 3 * len(circuit.ops)
    same = expvals(folded, angles, weights)
    torch.testing.assert_close(same, expvals(circuit, angles, weights), rtol=0, atol=1e-12)
    # depolarising commutes with every gate on its qubit, so p counts three times
    one, small = Circuit(1, (Op("RX", (0,), (Param("angle"),)),), each_z(1)), depolarizing(0.01)
    value = noisy_expvals(fold(one, 3), angles[:, :1], weights[:0], small)
    wanted = (1 - 4 * 0.01 / 3) ** 3 * expvals(one, angles[:, :1], weights[:0])
    torch.testing.assert_close(value, wanted, rtol=0, atol=1e-12)
    with pytest.raises(CircuitError, match=r"a folding factor is odd, from 1 to 15, got 2"):
        fold(circuit, 2)


def test_richardson_is_exact_for_polynomials():
    folds = (1, 3, 5)
    values = [2 - 3 * f + 0.5 * f * f for f in folds]
    assert np.dot(richardson(folds), values) == pytest.approx(2)


def test_mitigation_recovers_clean_values():
    circuit = surface_circuit(3, 2)
    angles, weights = numbers(circuit)
    clean = expvals(circuit, angles, weights)

    def error(**how):
        found = run_expvals(Execution(**how), circuit, angles, weights, rng())
        return (found - clean).abs().max().item()

    misread = NoiseModel(readout=(0.03, 0.08))
    assert error(noise=misread) > 0.05
    assert error(noise=misread, unmix=True) < 1e-12
    noisy = depolarizing(0.004)
    assert error(noise=noisy, folds=(1, 3)) < 0.3 * error(noise=noisy)
    assert error(noise=noisy, folds=(1, 3, 5)) < 0.3 * error(noise=noisy, folds=(1, 3))


def test_shots_with_noise_and_mitigation_are_unbiased():
    circuit = Circuit(2, surface_circuit(2, 1).ops, ((("Z", 0), ("Z", 1)), (("X", 1),)))
    angles, weights = numbers(circuit, batch=1)
    how = {"noise": DAMPED, "unmix": True, "folds": (1, 3)}
    exact = run_expvals(Execution(**how), circuit, angles, weights, rng())
    rows = angles.expand(2000, -1)
    found = run_expvals(Execution(shots=100, **how), circuit, rows, weights, rng())
    sigma = found.std(0) / 2000**0.5
    assert ((found.mean(0) - exact[0]).abs() < 5 * sigma).all()


def test_wide_circuits_run_by_trajectories():
    circuit = Circuit(9, dressed_circuit(9, 1).ops, ((("Z", 0),),))
    angles, weights = numbers(circuit, batch=2)
    how = Execution(noise=depolarizing(0.01), trajectories=400)
    found = run_expvals(how, circuit, angles, weights, rng())
    exact = noisy_expvals(circuit, angles, weights, depolarizing(0.01))
    assert (found - exact).abs().max() < 5 / 400**0.5


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"shots": 0}, "shots must be"),
        ({"gradient": "adjoint"}, "gradient 'adjoint' is unknown"),
        ({"folds": (3,)}, "two different folding factors"),
        ({"unmix": True, "noise": NoiseModel(readout=(0.5, 0.5))}, "both outcomes look alike"),
    ],
)
def test_wrong_executions_are_refused(settings, message):
    with pytest.raises(CircuitError, match=message):
        Execution(**settings)


def test_an_exact_execution_leaves_heads_as_they_are():
    features = torch.linspace(-1, 1, 24).reshape(6, 4)
    with torch_stream(1, "heads"):
        heads = [DressedHead(4, 2, n_qubits=3, depth=1, relu=True), QcnnHead(4, 2, n_qubits=4)]
    for head in heads:
        model = measured_head(head, Execution())
        torch.testing.assert_close(model(features), head(features), rtol=0, atol=2e-6)
        assert list(model.state_dict()) == [f"head.{name}" for name in head.state_dict()]
        many = measured_head(head, Execution(shots=10**7))
        torch.testing.assert_close(many(features), head(features), rtol=0, atol=0.02)
    with pytest.raises(ModelError, match="DenseHead has no circuit to run elsewhere"):
        MeasuredHead(DenseHead(4, 2), lambda *_: torch.zeros(1))
