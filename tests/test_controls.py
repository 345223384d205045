"""Control heads: what each takes away from the dressed head, and that nothing else changes."""

import copy

import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn

from qgraft.circuits.ansatz import dressed_circuit
from qgraft.errors import ConfigError, ModelError
from qgraft.grafting import graft, removed_layers
from qgraft.heads.controls import MatchedHead, NoCircuitHead
from qgraft.heads.dressed import DressedHead
from qgraft.heads.registry import build_head, takes_dressed_options
from qgraft.seeds import torch_stream
from qgraft.training.logistic import logistic_head
from qgraft.trunks.surface_cnn import surface_cnn

CONTROLS = ("matched", "matched-sine", "frozen-circuit", "no-entanglers", "no-circuit")


def seeded(name, *size, **options):
    with torch_stream(3, "head"):
        return build_head(name, *size, **options)


def count(module):
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize(
    ("n_features", "n_classes", "options", "quantum", "matched"),
    [
        (64, 2, {}, 382, 383),
        (128, 2, {}, 702, 703),
        (3200, 2, {}, 16_062, 16_063),
        (512, 2, {"circuit": dressed_circuit(4, 6)}, 2_086, 2_089),
        (20, 6, {"n_qubits": 4, "depth": 2}, 138, 134),
    ],
)
def test_matched_heads_have_the_same_size(n_features, n_classes, options, quantum, matched):
    assert count(DressedHead(n_features, n_classes, **options)) == quantum
    for name in ("matched", "matched-sine"):
        assert count(build_head(name, n_features, n_classes, **options)) == matched


def test_a_matched_head_is_as_close_as_whole_units_allow():
    for n_qubits in range(1, 9):
        for depth in range(5):
            options = {"n_qubits": n_qubits, "depth": depth}
            target = count(DressedHead(10, 3, **options))
            head = MatchedHead(10, 3, **options)
            unit = n_qubits + 1 + 3
            hidden = head[2].out_features
            # at least one unit, and the bias of the post-net on either side
            assert hidden == 1 or abs(count(head) - target) <= unit / 2


@pytest.mark.parametrize("name", CONTROLS)
def test_a_control_starts_from_the_same_pre_net(name):
    quantum, control = seeded("dressed", 7, 3), seeded(name, 7, 3)
    pre = control.pre if isinstance(control, DressedHead) else control[0]
    assert torch.equal(pre.weight, quantum.pre.weight)
    assert torch.equal(pre.bias, quantum.pre.bias)


def test_without_a_circuit_the_rest_of_the_head_is_the_same():
    options = {"n_qubits": 4, "scale": 1.5, "relu": True}
    head = NoCircuitHead(6, 2, **options)
    features = torch.randn(5, 6)
    angles = 1.5 * torch.tanh(head[0](features))
    torch.testing.assert_close(head(features), head[-1](angles.relu()))
    assert not any(isinstance(part, nn.ReLU) for part in NoCircuitHead(6, 2))


def test_a_frozen_circuit_differs_in_nothing_but_learning():
    quantum, frozen = seeded("dressed", 7, 3), seeded("frozen-circuit", 7, 3)
    features = torch.randn(5, 7)
    assert torch.equal(frozen(features), quantum(features))
    nn.functional.cross_entropy(frozen(features), torch.arange(5) % 3).backward()
    assert frozen.weights.grad is None
    assert all(p.grad is not None for p in (*frozen.pre.parameters(), *frozen.post.parameters()))


def test_without_entanglers_every_qubit_answers_for_itself():
    head = seeded("no-entanglers", 7, 3, n_qubits=3, scale=1.5, relu=True, init_spread=0.2)
    assert (head.scale, head.relu, head.init_spread) == (1.5, True, 0.2)
    assert all(len(op.qubits) == 1 for op in head.circuit.ops)
    assert head.weights.numel() == DressedHead(7, 3, n_qubits=3).weights.numel()
    read_out = copy.deepcopy(head).requires_grad_(False)
    with torch.no_grad():
        read_out.pre.weight.copy_(torch.eye(3, 7))
        read_out.pre.bias.zero_()
        read_out.post.weight.copy_(torch.eye(3))
        read_out.post.bias.zero_()
        read_out.relu = False
        base = torch.rand(7)
        for qubit in range(3):
            moved = base + 0.3 * nn.functional.one_hot(torch.tensor(qubit), 7)
            changed = (read_out(moved) - read_out(base)).abs() > 1e-6
            assert changed.tolist() == [k == qubit for k in range(3)]


def test_sines_make_a_periodic_head():
    head = build_head("matched-sine", 4, 2)
    with torch.no_grad():
        head[0].weight.copy_(torch.eye(5, 4))
    features = torch.randn(6, 4)
    torch.testing.assert_close(head(features + 2 * torch.pi), head(features))


def test_options_of_a_control_are_those_of_a_dressed_head():
    assert all(map(takes_dressed_options, ("dressed", *CONTROLS)))
    assert not any(map(takes_dressed_options, ("dense", "qcnn", "unheard of")))
    with pytest.raises(ConfigError, match="did you mean 'depth'"):
        build_head("matched", 4, 2, dept=3)


@pytest.mark.parametrize("n_classes", [2, 3])
def test_the_logistic_head_is_scikit_learns(n_classes):
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(90, 6, generator=generator) * torch.arange(1, 7) + 3
    labels = (features[:, :n_classes] + torch.randn(90, n_classes, generator=generator)).argmax(1)
    theirs = make_pipeline(StandardScaler(), LogisticRegression()).fit(features, labels)
    head = logistic_head(features, labels, n_classes)
    with torch.no_grad():
        ours = head(features).softmax(-1)
    expected = torch.from_numpy(theirs.predict_proba(features.double().numpy()))
    torch.testing.assert_close(ours.double(), expected, atol=1e-4, rtol=0)


def test_a_class_without_samples_is_never_predicted():
    features, labels = torch.randn(40, 3), torch.arange(40) % 2 * 2
    assert set(logistic_head(features, labels, 4)(features).argmax(1).tolist()) <= {0, 2}


@pytest.mark.parametrize(("k", "n_parameters"), [(2, 1_074), (3, 9_330), ("all", 271_602)])
def test_the_removed_layers_are_those_that_a_graft_replaces(k, n_parameters):
    model = surface_cnn("cm2").eval()
    removed = removed_layers(model, k)
    assert count(removed) == n_parameters == graft(model, k).parameter_report().removed
    images = torch.rand(2, 1, 200, 200)
    with torch.no_grad():
        parts = removed.eval()(graft(model, k).features(images))
        torch.testing.assert_close(parts, model(images))
    with torch.no_grad():
        removed[-1].bias.add_(1.0)
    assert not torch.equal(removed[-1].bias, model[-1].bias)


def test_layers_that_are_not_there_cannot_be_removed():
    with pytest.raises(ModelError, match="this model has 4 dense layers"):
        removed_layers(surface_cnn("cm2"), 5)
