"""Quantum convolutional heads: what they compute, on which trunks they fit, how they train."""

import copy

import pennylane as qml
import pytest
import torch
from torch import nn
from torch.func import functional_call, stack_module_state, vmap

from qgraft.circuits.embeddings import ARRANGEMENTS, EMBEDDINGS
from qgraft.errors import ConfigError, ModelError, RunError
from qgraft.grafting import graft
from qgraft.heads.qcnn import FLOOR, QcnnHead, joined_amplitudes
from qgraft.heads.registry import build_head
from qgraft.seeds import torch_stream
from qgraft.simulate.statevector import probabilities
from qgraft.training.loop import Samples
from qgraft.training.minibatch import (
    StepRecipe,
    accuracy,
    cost_of,
    drawn_batches,
    epoch_batches,
    train_steps,
)
from qgraft.trunks.fashion_cnn import fashion_cnn, n_numbers, trunk_of
from qgraft.trunks.surface_cnn import surface_cnn


def head(*sizes, **options):
    with torch_stream(3, "head"):
        return QcnnHead(*sizes, **options)


def test_logits_are_logarithms_of_the_probabilities():
    network, features = head(256, 2), torch.randn(5, 256)
    expected = probabilities(network.circuit, features, network.weights)
    torch.testing.assert_close(network(features).exp() - FLOOR, expected, rtol=0, atol=1e-6)
    torch.testing.assert_close(network(features).softmax(-1), expected, rtol=0, atol=1e-6)


def test_two_classes_need_no_layer_before_the_circuit():
    assert sum(p.numel() for p in head(256, 2).parameters()) == 63
    assert sum(p.numel() for p in head(8, 2, embedding="angle").parameters()) == 63
    assert sum(p.numel() for p in head(256, 4).parameters()) == 57


def test_missing_amplitudes_are_zeros():
    narrow, wide = head(100, 2), head(256, 2)
    features = torch.randn(4, 100)
    filled = torch.cat([features, torch.zeros(4, 156)], 1)
    torch.testing.assert_close(narrow(features), wide(filled))


@pytest.mark.parametrize("n_classes", [2, 3, 4, 6, 10])
def test_classes_share_the_outcomes(n_classes):
    logits = head(64, n_classes)(torch.randn(3, 64))
    assert logits.shape == (3, n_classes)
    assert (logits.exp().sum(1) < 1 + 1e-5).all()


def test_scaling_the_features_changes_nothing_for_amplitudes():
    network, features = head(256, 2), torch.randn(4, 256)
    torch.testing.assert_close(network(7 * features), network(features))


def test_features_without_length_give_finite_logits_and_gradients():
    for backend in ("torch", "native"):
        network = head(256, 2, backend=backend)
        features = torch.zeros(2, 256, requires_grad=True)
        network(features).sum().backward()
        assert features.grad is not None
        assert features.grad.isfinite().all()


@pytest.mark.parametrize("embedding", EMBEDDINGS)
def test_every_embedding_runs_on_both_backends(embedding):
    plain = head(20, 2, ansatz="ttn", pooling="zx", embedding=embedding, backend="torch").double()
    native = copy.deepcopy(plain)
    native.backend = "native"
    features = torch.randn(3, 20, dtype=torch.float64)
    torch.testing.assert_close(plain(features), native(features), rtol=0, atol=1e-12)
    assert (plain.pre is None) == (embedding == "amplitude")


@pytest.mark.parametrize("size", [4, 2])
@pytest.mark.parametrize("number", [0, 3])
def test_hybrid_direct_embedding_is_pennylanes_state_preparation(size, number):
    blocks = ARRANGEMENTS[size][number]
    parts = torch.randn(len(blocks), 2**size, dtype=torch.float64)

    @qml.qnode(qml.device("default.qubit", wires=8))
    def prepared():
        for part, block in zip(parts.numpy(), blocks, strict=True):
            qml.AmplitudeEmbedding(part, wires=block, normalize=True)
        return qml.state()

    ours = joined_amplitudes(parts.reshape(1, -1), blocks)[0]
    expected = torch.as_tensor(prepared())
    torch.testing.assert_close(ours.to(expected.dtype), expected, rtol=0, atol=1e-12)


def test_stacked_heads_run_under_vmap():
    heads = [QcnnHead(16, 2, n_qubits=4) for _ in range(3)]
    features = torch.randn(5, 16)
    parameters, buffers = stack_module_state(heads)  # pyright: ignore[reportArgumentType]
    base = copy.deepcopy(heads[0]).to("meta")

    def call(p, b):
        return functional_call(base, (p, b), (features,))

    expected = torch.stack([network(features) for network in heads])
    torch.testing.assert_close(vmap(call)(parameters, buffers), expected, rtol=1e-4, atol=1e-5)


def test_it_is_grafted_like_any_other_head():
    model = graft(surface_cnn("cm2"), 3, head="qcnn", ansatz="so4", pooling="zx", embedding="angle")
    assert isinstance(model.head, QcnnHead)
    assert model.head.pre is not None
    assert model.head.pre.in_features == 128
    assert model.head.weights.numel() == 24
    report = model.parameter_report()
    assert report.trainable == report.head == 128 * 8 + 8 + 24
    model = graft(surface_cnn("cm2"), 3, head="qcnn", n_classes=6)
    assert model.head.pre is None
    assert model.head(torch.rand(2, 128)).shape == (2, 6)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: QcnnHead(300, 2, pre_net=False), ModelError, "takes 256 features, got 300"),
        (lambda: QcnnHead(8, 1), ModelError, "needs 2 classes, got 1"),
        (lambda: QcnnHead(8, 2)(torch.zeros(3, 9)), ModelError, r"features \(\.\.\., 8\)"),
        (lambda: build_head("qcnn", 8, 2, anzatz="so4"), ConfigError, "did you mean 'ansatz'"),
        (lambda: QcnnHead(8, 3, topology="tree"), ModelError, "cannot read 2 of them"),
    ],
)
def test_mistakes_are_explained(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_the_fashion_network_has_the_published_size():
    network = fashion_cnn(256)
    assert n_numbers(network) == 212_500
    assert sum(p.numel() for p in network.parameters()) == 211_988
    assert n_numbers(nn.Sequential(*list(network)[:-4])) == 203_456
    assert n_numbers(fashion_cnn(8)) == 60_972
    trunk = trunk_of(network)
    assert trunk(torch.rand(2, 1, 28, 28)).shape == (2, 256)
    assert not any(p.requires_grad for p in trunk.parameters())
    assert isinstance(trunk[-1], nn.BatchNorm1d)


def test_the_fashion_network_is_cut_by_graft_at_the_same_place():
    network = fashion_cnn(256)
    images = torch.rand(2, 1, 28, 28)
    model = graft(network, 2, head="qcnn", n_classes=2)
    torch.testing.assert_close(model.features(images), trunk_of(network)(images))


def blobs(n=200):
    with torch_stream(0, "blobs"):
        labels = torch.arange(n) % 2
        centres = torch.randn(2, 16)
        return Samples(centres[labels] + 0.5 * torch.randn(n, 16), labels)


def small_head():
    with torch_stream(1, "small"):
        return QcnnHead(16, 2, n_qubits=4, ansatz="so4")


@pytest.mark.parametrize(
    ("optimiser", "rate", "steps"),
    [("adam", 0.05, 60), ("nesterov", 0.002, 60), ("lbfgs", 0.5, 6), ("spsa", 0.01, 150)],
)
def test_every_optimiser_lowers_the_cost(optimiser, rate, steps):
    samples, network = blobs(), small_head()
    recipe = StepRecipe(steps, 30, rate, optimiser)
    costs = train_steps(network, samples, drawn_batches(200, recipe, 0), recipe)
    assert len(costs) == steps
    tenth = max(1, steps // 10)
    assert sum(costs[-tenth:]) < 0.8 * sum(costs[:tenth])


def test_adam_takes_the_published_steps():
    """By hand: summed cross-entropy of p, rate 0.01, batches drawn with replacement."""
    samples, ours, network = blobs(), small_head(), small_head()
    recipe = StepRecipe(5, 20)
    batches = drawn_batches(200, recipe, 4)
    train_steps(ours, samples, batches, recipe)
    optimiser = torch.optim.Adam([network.weights], 0.01)
    for index in batches:
        optimiser.zero_grad()
        p = probabilities(network.circuit, samples.inputs[index], network.weights)
        chosen = p[torch.arange(20), samples.labels[index]]
        (-(chosen + 1e-7).log().sum()).backward()
        optimiser.step()
    # the outputs: Adam lets weights that cannot matter drift on rounding noise
    rows = samples.inputs
    torch.testing.assert_close(ours(rows), network(rows), rtol=0, atol=1e-4)


def test_the_squared_cost_is_that_of_the_expectation_value():
    logits = torch.tensor([[0.9, 0.1], [0.2, 0.8]]).log()
    labels = torch.tensor([0, 0])
    assert float(cost_of(logits, labels, "mse")) == pytest.approx(0.2**2 + 1.6**2)


def test_batches_depend_on_the_seed_only():
    recipe = StepRecipe(7, 30)
    assert torch.equal(drawn_batches(50, recipe, 1), drawn_batches(50, recipe, 1))
    assert not torch.equal(drawn_batches(50, recipe, 1), drawn_batches(50, recipe, 2))
    epochs = epoch_batches(50, recipe, 1).flatten()
    assert epochs.shape == (210,)
    for start in range(0, 200, 50):
        assert sorted(epochs[start : start + 50].tolist()) == list(range(50))


def test_accuracy_says_which_samples_are_right():
    samples = blobs()
    value, right = accuracy(small_head(), samples, batch_size=64)
    assert value == pytest.approx(float(right.float().mean()))
    assert right.shape == (200,)


@pytest.mark.parametrize(
    ("recipe", "error", "message"),
    [
        (
            StepRecipe(2, 4, optimiser="sgd"),
            ConfigError,
            "unknown optimiser 'sgd'; use one of adam",
        ),
        (StepRecipe(2, 4, cost="l1"), ConfigError, "unknown cost 'l1'"),
    ],
)
def test_training_mistakes_are_explained(recipe, error, message):
    samples, network = blobs(), nn.Linear(16, 2)
    with pytest.raises(error, match=message):
        train_steps(network, samples, drawn_batches(200, recipe, 0), recipe)


def test_a_cost_that_is_not_finite_ends_the_training():
    samples, recipe = blobs(), StepRecipe(2, 4)
    samples.inputs[:] = torch.inf
    with pytest.raises(RunError, match=r"cost became nan; lower the learning rate \(now 0\.01\)"):
        train_steps(nn.Linear(16, 2), samples, drawn_batches(200, recipe, 0), recipe)


def test_the_squared_cost_is_for_two_classes():
    with pytest.raises(ConfigError, match="for 2 classes, this head has 3"):
        cost_of(torch.zeros(1, 3), torch.zeros(1, dtype=torch.long), "mse")
