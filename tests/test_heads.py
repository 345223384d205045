"""The contract of every head in the registry, and what is particular to each."""

import copy
import io
import pickle

import pytest
import torch
from torch import nn

from qgraft.circuits.ansatz import dressed_circuit, surface_circuit
from qgraft.circuits.circuit import Circuit, each_z
from qgraft.errors import CircuitError, ConfigError, ModelError
from qgraft.heads.dense import DenseHead
from qgraft.heads.dressed import DressedHead
from qgraft.heads.registry import HEADS, build_head
from qgraft.seeds import torch_stream
from qgraft.simulate.statevector import expvals

N_FEATURES, N_CLASSES = 12, 3


@pytest.fixture(params=HEADS)
def kind(request):
    return request.param


@pytest.fixture
def head(kind):
    with torch_stream(1, "head"):
        return build_head(kind, N_FEATURES, N_CLASSES)


def count(module):
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize("lead", [(0,), (1,), (7,), (), (2, 3), (2, 0)])
def test_heads_map_any_leading_shape_to_logits(head, lead):
    features = torch.randn(*lead, N_FEATURES)
    logits = head(features)
    assert logits.shape == (*lead, N_CLASSES)
    assert logits.dtype == torch.float32


def test_a_sample_gets_the_same_logits_alone_and_in_a_batch(head):
    features = torch.randn(6, N_FEATURES)
    together = head.eval()(features)
    torch.testing.assert_close(torch.stack([head(row) for row in features]), together)


def test_every_parameter_gets_a_finite_gradient(head):
    nn.functional.cross_entropy(head(torch.randn(8, N_FEATURES)), torch.arange(8) % 3).backward()
    learning = [p for p in head.parameters() if p.requires_grad]
    assert all(p.grad is not None and p.grad.isfinite().all() for p in learning)


def test_heads_survive_copies_pickle_and_state_dict(kind, head):
    features = torch.randn(4, N_FEATURES)
    expected = head(features)
    with torch_stream(2, "other"):
        fresh = build_head(kind, N_FEATURES, N_CLASSES)
    fresh.load_state_dict(head.state_dict())
    buffer = io.BytesIO(pickle.dumps(head))
    for other in (copy.deepcopy(head), pickle.load(buffer), fresh):
        assert torch.equal(other(features), expected)


def test_heads_work_in_float64(head):
    assert head.double()(torch.randn(2, N_FEATURES).double()).dtype == torch.float64


def test_heads_can_be_exported_with_any_batch_size(head):
    head.eval()
    shapes = ({0: torch.export.Dim("batch")},)
    program = torch.export.export(head, (torch.randn(4, N_FEATURES),), dynamic_shapes=shapes)
    features = torch.randn(9, N_FEATURES)
    torch.testing.assert_close(program.module()(features), head(features))


@pytest.mark.filterwarnings("ignore:The .grad attribute")  # torch's own, at a graph break
def test_heads_work_under_torch_compile(head):
    features = torch.randn(4, N_FEATURES)
    compiled = torch.compile(head, backend="eager")
    torch.testing.assert_close(compiled(features), head(features))


def test_initial_weights_depend_on_the_stream_only():
    def build():
        with torch_stream(5, "init"):
            return build_head("dressed", 4, 2).weights

    assert torch.equal(build(), build())


def test_a_dressed_head_is_its_three_parts():
    head = DressedHead(6, 2, scale=1.5, relu=True)
    features = torch.randn(4, 6)
    angles = 1.5 * torch.tanh(features @ head.pre.weight.T + head.pre.bias)
    values = expvals(head.circuit, angles, head.weights).relu()
    expected = values @ head.post.weight.T + head.post.bias
    torch.testing.assert_close(head(features), expected)


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        (DressedHead(64, 2), 382),
        (DressedHead(128, 2), 702),
        (DressedHead(3200, 2), 16_062),
        (DressedHead(2, 2, dressed_circuit(5, 5)), 52),
        (DressedHead(2, 2, dressed_circuit(4, 5)), 42),
        (DressedHead(512, 2, dressed_circuit(4, 6)), 2_086),
        (DenseHead(16, 2), 34),
        (DenseHead(3200, 2, widths=(128, 64, 32, 16), dropout=0.5), 420_626),
    ],
)
def test_published_parameter_counts(head, expected):
    assert count(head) == expected


def test_initial_circuit_weights():
    wide = DressedHead(2, 2, surface_circuit(8, 40)).weights
    assert 0 <= wide.min() < 0.1
    assert 6.2 < wide.max() <= 2 * torch.pi
    narrow = DressedHead(2, 2, surface_circuit(8, 40), init_spread=0.01).weights
    assert 0.008 < narrow.std() < 0.012


def test_inert_weights_stay_where_they_are_under_adam():
    head = DressedHead(4, 2)
    before = head.weights.detach().clone()
    optimiser = torch.optim.Adam(head.parameters(), lr=0.01)
    for _ in range(3):
        optimiser.zero_grad()
        head(torch.randn(8, 4)).square().sum().backward()
        optimiser.step()
    moved = (head.weights.detach() != before).nonzero().flatten().tolist()
    assert moved == [k for k in range(45) if k not in (32, 35, 38, 41, 44)]


def test_a_dressed_head_learns_a_circle():
    with torch_stream(0, "circle"):
        points = torch.rand(200, 2) * 4 - 2
        labels = (points.norm(dim=1) < 1.3).long()
        head = DressedHead(2, 2, n_qubits=4, depth=3, scale=torch.pi / 2)
    optimiser = torch.optim.Adam(head.parameters(), lr=0.05)
    for _ in range(150):
        optimiser.zero_grad()
        nn.functional.cross_entropy(head(points), labels).backward()
        optimiser.step()
    assert (head(points).argmax(1) == labels).float().mean() > 0.93


def test_dense_layers_in_order():
    kinds = [type(m).__name__ for m in DenseHead(8, 2, widths=(6, 4), dropout=(0.5, 0.0))]
    assert kinds == ["Linear", "ReLU", "Dropout", "Linear", "ReLU", "Linear"]


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: build_head("dresed", 4, 2), ConfigError, "did you mean 'dressed'"),
        (lambda: build_head("dressed", 4, 2, dept=3), ConfigError, "did you mean 'depth'"),
        (lambda: build_head("dense", 4, 2, circuit=None), ConfigError, "known: widths, dropout"),
        (lambda: build_head("dense", 0, 2), ConfigError, "n_features must be a positive integer"),
        (lambda: build_head("dense", 4, 2.5), ConfigError, "n_classes must be a positive integer"),
        (lambda: build_head("dressed", 4, 2, n_qubits=99), CircuitError, "from 1 to 20, got 99"),
        (lambda: DenseHead(4, 2, widths=(3,), dropout=()), ModelError, "as many dropouts"),
        (lambda: DressedHead(4, 2, Circuit(1, (), each_z(1))), CircuitError, "needs angles"),
        (lambda: DressedHead(4, 2)(torch.zeros(3, 5)), ModelError, r"features \(\.\.\., 4\)"),
    ],
)
def test_mistakes_are_explained(make, error, message):
    with pytest.raises(error, match=message):
        make()


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("scale", [1.0, 1.5])
def test_the_fused_head_equals_its_modules_one_by_one(relu, scale):
    """Values and every gradient: one operation on native kernels against torch module by module."""
    fused = DressedHead(7, 3, n_qubits=4, scale=scale, relu=relu).double()
    plain = copy.deepcopy(fused)
    plain.backend = "torch"
    features = torch.randn(9, 7, dtype=torch.float64)
    results = []
    for head in (fused, plain):
        inputs = features.clone().requires_grad_()
        logits = head(inputs)
        torch.nn.functional.cross_entropy(logits, torch.arange(9) % 3).backward()
        results.append([logits, inputs.grad, *(p.grad for p in head.parameters())])
    for ours, reference in zip(*results, strict=True):
        torch.testing.assert_close(ours, reference, rtol=0, atol=1e-12)


def test_hooks_on_the_layers_are_heard():
    head, heard = DressedHead(7, 2), []
    head.pre.register_forward_hook(lambda *_: heard.append("pre"))
    with torch.no_grad():
        expected = head(torch.ones(2, 7))
    assert heard == ["pre"]
    head.pre._forward_hooks.clear()
    with torch.no_grad():
        torch.testing.assert_close(head(torch.ones(2, 7)), expected)
