"""Photonic gates by two other routes: matrix exponentials at a large cutoff, and PennyLane."""

import numpy as np
import pytest
import torch
from scipy.linalg import expm

from qgraft.errors import CircuitError
from qgraft.heads.photonic import FockAmplitudes, OneModeLayers, TwoModeLayers, VacuumLogits
from qgraft.simulate.fock import (
    beam_splitter,
    coherent,
    cubic_phase,
    displacement,
    kerr,
    lost_norm,
    on_mode,
    pass_photons,
    rotation,
    squeezing,
    vacuum,
)

CUTOFF, LARGE = 11, 120
LOWER = np.diag(np.sqrt(np.arange(1, LARGE)), 1)
RAISE = LOWER.T


def number(value):
    return torch.tensor(value, dtype=torch.float64)


def cut(matrix):
    return matrix[:CUTOFF, :CUTOFF]


def test_displacement_is_the_exponential_of_its_generator():
    alpha = 0.7 - 0.5j
    ours = displacement(torch.tensor(alpha, dtype=torch.complex128), CUTOFF).numpy()
    np.testing.assert_allclose(ours, cut(expm(alpha * RAISE - np.conj(alpha) * LOWER)), atol=1e-12)


def test_squeezing_is_the_exponential_of_its_generator():
    r, phi = 0.8, 0.6
    generator = r / 2 * (np.exp(-1j * phi) * LOWER @ LOWER - np.exp(1j * phi) * RAISE @ RAISE)
    ours = squeezing(number(r), number(phi), CUTOFF).numpy()
    np.testing.assert_allclose(ours, cut(expm(generator)), atol=1e-12)


def test_diagonal_gates():
    n = np.arange(CUTOFF)
    np.testing.assert_allclose(rotation(number(0.3), CUTOFF).numpy(), np.exp(0.3j * n))
    np.testing.assert_allclose(kerr(number(0.3), CUTOFF).numpy(), np.exp(0.3j * n**2))


@pytest.mark.parametrize("gamma", [0.2, -0.5])
def test_cubic_phase_by_diagonalising_x_in_a_large_space(gamma):
    large = 300
    lower = np.diag(np.sqrt(np.arange(1, large)), 1)
    values, vectors = np.linalg.eigh(lower + lower.T)
    theirs = ((vectors * np.exp(1j * gamma * values**3 / 6)) @ vectors.T)[:CUTOFF, :CUTOFF]
    np.testing.assert_allclose(cubic_phase(number(gamma), CUTOFF).numpy(), theirs, atol=1e-9)


def test_cut_cubic_phase_is_the_exponential_of_the_cut_generator():
    x = cut(LOWER + RAISE)
    ours = cubic_phase(number(0.7), CUTOFF, exact=False).numpy()
    np.testing.assert_allclose(ours, expm(0.7j / 6 * x @ x @ x), atol=1e-11)
    np.testing.assert_allclose(ours @ ours.conj().T, np.eye(CUTOFF), atol=1e-12)


def test_cubic_phases_add_up_and_keep_the_norm_at_low_numbers():
    two = cubic_phase(number(0.01), 40) @ cubic_phase(number(0.02), 40)
    np.testing.assert_allclose(two[:4, :4], cubic_phase(number(0.03), 40)[:4, :4], atol=1e-6)


def test_beam_splitter_is_the_exponential_of_its_generator():
    cutoff, large = 4, 8
    theta, phi = 0.7, 0.4
    lower = np.diag(np.sqrt(np.arange(1, large)), 1)
    a, b = np.kron(lower, np.eye(large)), np.kron(np.eye(large), lower)
    generator = theta * (np.exp(1j * phi) * a @ b.T - np.exp(-1j * phi) * a.T @ b)
    whole = expm(generator).reshape(large, large, large, large)
    unitary = whole[:cutoff, :cutoff, :cutoff, :cutoff]
    kets = torch.from_numpy(np.random.default_rng(0).normal(size=(3, cutoff, cutoff)) + 0j)
    ours = pass_photons(kets, beam_splitter(number(theta), number(phi), cutoff)).numpy()
    np.testing.assert_allclose(ours, np.einsum("abcd,ncd->nab", unitary, kets), atol=1e-12)


def test_gaussian_circuit_has_the_photon_numbers_of_pennylane():
    pennylane = pytest.importorskip("pennylane")
    device = pennylane.device("default.gaussian", wires=2)

    @pennylane.qnode(device)
    def theirs(read):
        pennylane.Displacement(0.4, 0.3, wires=0)
        pennylane.Squeezing(0.3, 0.2, wires=1)
        pennylane.Rotation(0.6, wires=0)
        pennylane.Beamsplitter(0.5, 0.7, wires=[0, 1])
        pennylane.Squeezing(-0.2, 0.1, wires=0)
        return pennylane.expval(read)

    cutoff = 24
    alpha = torch.polar(number(0.4), number(0.3))
    ket = coherent(alpha, cutoff)[:, None] * squeezing(number(0.3), number(0.2), cutoff)[:, 0]
    ket = on_mode(ket, rotation(number(0.6), cutoff), 0)
    ket = pass_photons(ket, beam_splitter(number(0.5), number(0.7), cutoff))
    ket = on_mode(ket, squeezing(number(-0.2), number(0.1), cutoff), 0)
    odds = ket.abs().square()
    means = [float((odds.sum(1 - mode) * torch.arange(cutoff)).sum()) for mode in (0, 1)]
    assert float(lost_norm(ket, 2)) < 1e-9
    for mode, mean in enumerate(means):
        assert mean == pytest.approx(float(theirs(pennylane.NumberOperator(mode))), abs=1e-7)


def test_two_beam_splitters_make_a_longer_one_and_no_photon_is_lost():
    ket = torch.zeros(CUTOFF, CUTOFF, dtype=torch.complex128)
    ket[3, 2] = 1
    once = beam_splitter(number(0.9), number(0.2), CUTOFF)
    twice = [beam_splitter(number(t), number(0.2), CUTOFF) for t in (0.4, 0.5)]
    out = pass_photons(ket, once)
    torch.testing.assert_close(pass_photons(pass_photons(ket, twice[0]), twice[1]), out)
    totals = torch.arange(CUTOFF)[:, None] + torch.arange(CUTOFF)
    assert float(out.abs().square()[totals == 5].sum()) == pytest.approx(1, abs=1e-12)


def test_what_leaves_the_space_is_lost_not_folded_back():
    ket = coherent(torch.tensor(3.0 + 0j, dtype=torch.complex128), 5)
    n = np.arange(5)
    poisson = np.exp(-9) * 9.0**n / [1, 1, 2, 6, 24]
    assert float(lost_norm(ket, 1)) == pytest.approx(1 - poisson.sum(), abs=1e-12)
    torch.testing.assert_close(
        displacement(torch.tensor(3.0 + 0j, dtype=torch.complex128), 5)[:, 0], ket
    )


@pytest.mark.parametrize(
    ("layers", "ket"),
    [(OneModeLayers, vacuum(1, 5)), (TwoModeLayers, vacuum(2, 4))],
)
def test_gradients_of_layers_are_those_of_finite_differences(layers, ket):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = layers(1, passive_spread=0.3, active_spread=0.2)

    def read(weights):
        out = torch.func.functional_call(network, {"weights": weights}, (ket[None],))
        return torch.view_as_real(out)

    assert torch.autograd.gradcheck(read, (network.weights.detach().requires_grad_(),))


def test_layers_follow_their_published_order():
    with torch.random.fork_rng():
        torch.manual_seed(1)
        network = OneModeLayers(2, passive_spread=0.5, active_spread=0.3)
    kets = coherent(torch.tensor([0.3 + 0.1j, -0.2j], dtype=torch.complex128), 9)
    by_hand = kets
    for squeeze, displace, r1, r2, r3, cubic in network.weights.detach():
        for gate in (
            torch.diag(rotation(r1, 9)), squeezing(squeeze, number(0.0), 9),
            torch.diag(rotation(r2, 9)), displacement(displace + 0j, 9),
            torch.diag(rotation(r3, 9)), cubic_phase(cubic, 9),
        ):  # fmt: skip
            by_hand = by_hand @ gate.mT
    torch.testing.assert_close(network(kets).detach(), by_hand)


def test_active_parameters_are_clipped():
    network = OneModeLayers(1)
    with torch.no_grad():
        network.weights.copy_(number([[3.0, 0, 0, 0, 0, 0]]))
    expected = squeezing(number(1.0), number(0.0), 15)[:, 0]
    torch.testing.assert_close(network(vacuum(1, 15)[None])[0].detach(), expected)


def test_a_slice_keeps_the_first_layers_and_is_a_copy():
    network = TwoModeLayers(4)
    first = network[:3]
    assert len(network) == 4
    assert len(first) == 3
    assert network.weights.numel() == 64
    with torch.no_grad():
        first.weights.zero_()
    assert network.weights.abs().sum() > 0
    with pytest.raises(CircuitError, match="take a slice"):
        network[0]


def test_read_outs():
    ket = torch.zeros(1, 5, 5, dtype=torch.complex128)
    ket[0, 1, 2], ket[0, 4, 4] = 0.6j, 0.8
    features = FockAmplitudes(4)(ket)
    assert features.shape == (1, 16)
    assert features[0, 6] == 1  # renormalised, without phase
    logits = VacuumLogits()(torch.tensor([[0.6, 0.8], [0.8, 0.6]]) + 0j)
    torch.testing.assert_close(
        logits.softmax(-1)[:, 1], torch.tensor([0.36, 0.64]), atol=1e-6, rtol=0
    )


def test_wrong_sizes_are_refused():
    with pytest.raises(CircuitError, match="cutoff must be from 2 to 60 photon numbers, got 1"):
        vacuum(1, 1)
    with pytest.raises(CircuitError, match="depth must be 0 or more"):
        OneModeLayers(-1)
