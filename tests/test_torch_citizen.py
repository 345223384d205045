"""Heads and layers behave as torch modules do: copies, compilers, exporters, vmap, autocast."""

import copy
import io
import pickle
from itertools import product

import pennylane as qml
import pytest
import torch
from torch import nn
from torch.func import functional_call, grad, stack_module_state, vmap

from qgraft.circuits.ansatz import dressed_circuit, strongly_entangling, surface_circuit
from qgraft.circuits.circuit import Circuit, Op, Param, each_z
from qgraft.devices.torch_layer import TorchLayer
from qgraft.errors import ModelError
from qgraft.heads.dressed import DressedHead
from qgraft.heads.frozen import FrozenHead
from qgraft.seeds import torch_stream
from qgraft.simulate.backends import expvals, probabilities

WIDTH = 6
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device")


def affine(inputs, weights):
    qml.AngleEmbedding(inputs, wires=range(3))
    qml.StronglyEntanglingLayers(weights, wires=range(3))
    return [qml.expval(qml.Z(q)) for q in range(3)]


def retraced(inputs, weights):
    qml.AngleEmbedding(torch.atan(inputs), wires=range(3))
    qml.StronglyEntanglingLayers(weights, wires=range(3))
    return [qml.expval(qml.Z(q)) for q in range(3)]


def qlayer(function):
    return TorchLayer(
        qml.QNode(function, qml.device("default.qubit", wires=3)), {"weights": (2, 3, 3)}
    )


def module(name):
    """Return a module `(..., 6)` to `(..., 2)` with seeded weights."""
    with torch_stream(0, "citizen"):
        if name in ("affine", "retraced"):
            layer = qlayer({"affine": affine, "retraced": retraced}[name])
            return nn.Sequential(nn.Linear(WIDTH, 3), layer, nn.Linear(3, 2))
        head = DressedHead(WIDTH, 2, n_qubits=4, scale=1.5)
        return head if name == "dressed" else FrozenHead(head)


@pytest.fixture(params=["dressed", "frozen", "affine", "retraced"])
def name(request):
    return request.param


def features(*lead):
    with torch_stream(1, "features"):
        return torch.randn(*lead, WIDTH)


@pytest.mark.parametrize("lead", [(0,), (1,), (7,), (2, 3), (2, 0), ()])
def test_any_leading_shape(name, lead):
    assert module(name)(features(*lead)).shape == (*lead, 2)


def test_one_sample_alone_is_the_same_as_in_a_batch(name):
    network, rows = module(name), features(5)
    torch.testing.assert_close(torch.stack([network(row) for row in rows]), network(rows))


def test_copies_share_nothing_but_the_numbers(name):
    network, rows = module(name), features(4)
    expected = network(rows)
    twin = copy.deepcopy(network)
    assert torch.equal(twin(rows), expected)
    with torch.no_grad():
        for tensor in [*twin.parameters(), *twin.buffers()]:
            tensor.zero_()
    assert torch.equal(network(rows), expected)
    fresh = module(name)
    fresh.load_state_dict(network.state_dict())
    assert torch.equal(fresh(rows), expected)


@pytest.mark.parametrize("name", ["dressed", "frozen", "affine"])
def test_pickle_keeps_the_module(name):
    network, rows = module(name), features(4)
    expected = network(rows)
    assert torch.equal(pickle.loads(pickle.dumps(network))(rows), expected)


def test_a_pickled_layer_says_what_it_left_behind():
    layer = qlayer(affine)
    with pytest.raises(ModelError, match="cannot be pickled: call it once first"):
        pickle.dumps(layer)
    layer(torch.zeros(1, 3))
    again = pickle.loads(pickle.dumps(layer))
    assert "translation=affine" in repr(again)
    with pytest.raises(ModelError, match="knows inputs of width 3 only, got 4"):
        again(torch.zeros(1, 4))
    untranslatable = qlayer(retraced)
    untranslatable(torch.zeros(1, 3))
    with pytest.raises(ModelError, match="or save its state_dict"):
        pickle.dumps(untranslatable)


@pytest.mark.filterwarnings("ignore:The .grad attribute")  # torch's own, at a graph break
def test_torch_compile_changes_nothing(name):
    network, rows = module(name), features(4)
    expected = network(rows)
    compiled = torch.compile(network, backend="eager")
    torch.testing.assert_close(compiled(rows), expected)
    if name != "frozen":
        compiled(rows).square().sum().backward()
        assert all(p.grad.isfinite().all() for p in network.parameters())


def test_a_frozen_head_compiles_without_a_graph_break():
    network, rows = module("frozen"), features(4)
    compiled = torch.compile(network, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(rows), network(rows))


@pytest.mark.parametrize("name", ["dressed", "frozen", "affine"])
def test_export_with_any_batch_size(name):
    network = module(name).eval()
    network(features(2))  # a layer learns here what its qnode is
    shapes = ({0: torch.export.Dim("batch")},)
    program = torch.export.export(network, (features(4),), dynamic_shapes=shapes)
    torch.testing.assert_close(program.module()(features(9)), network(features(9)))


HEADS = {
    "surface": lambda: DressedHead(WIDTH, 3),
    "dressed": lambda: DressedHead(WIDTH, 2, dressed_circuit(4, 3), scale=1.5, relu=True),
    "words": lambda: DressedHead(
        WIDTH,
        2,
        Circuit(
            3,
            (Op("RX", (1,), (Param("angle", 0, -0.5, 0.3),)), *strongly_entangling(3, 1)),
            ((("X", 0), ("Y", 2)), (("Z", 1),)),
        ),
    ),
    "amplitudes": lambda: DressedHead(
        WIDTH, 2, Circuit(3, strongly_entangling(3, 2), each_z(3), amplitudes=True)
    ),
}


@pytest.mark.parametrize("make", HEADS.values(), ids=HEADS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.float64, 1e-13)])
def test_a_frozen_head_is_the_head(make, dtype, tolerance):
    with torch_stream(2, "frozen"):
        head = make().to(dtype)
    frozen, rows = FrozenHead(head), features(20).to(dtype).requires_grad_()
    torch.testing.assert_close(frozen(rows), head(rows), rtol=0, atol=tolerance)
    assert not any(p.requires_grad for p in frozen.parameters())
    assert not any(t.is_complex() for t in frozen.state_dict().values())
    slopes = [torch.autograd.grad(m(rows).sum(), rows)[0] for m in (frozen, head)]
    torch.testing.assert_close(*slopes, rtol=0, atol=10 * tolerance)


def test_an_exported_frozen_head_knows_real_numbers_only():
    program = torch.export.export(module("frozen"), (features(4),))
    values = [node.meta.get("val") for node in program.graph.nodes]
    tensors = [value for value in values if isinstance(value, torch.Tensor)]
    assert len(tensors) > 10
    assert all(value.dtype == torch.float32 for value in tensors)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("kind", ["words", "amplitudes"])
def test_onnx_runtime_gives_the_same_logits(kind):
    pytest.importorskip("onnxscript", reason="needs onnxscript to write ONNX")
    runtime = pytest.importorskip("onnxruntime", reason="needs onnxruntime to run ONNX")
    with torch_stream(2, "frozen"):
        head = HEADS[kind]()
    shapes = ({0: torch.export.Dim("batch")},)
    written = torch.onnx.export(
        FrozenHead(head), (features(3),), dynamo=True, dynamic_shapes=shapes, verbose=False
    )
    file = io.BytesIO()
    written.save(file)
    options = runtime.SessionOptions()
    options.intra_op_num_threads = 1
    session = runtime.InferenceSession(file.getvalue(), options)
    for batch in (1, 9):
        rows = features(batch)
        (logits,) = session.run(None, {session.get_inputs()[0].name: rows.numpy()})
        torch.testing.assert_close(torch.from_numpy(logits), head(rows), rtol=0, atol=2e-6)


def reuploading():
    ops = (Op("H", (0,)), Op("S", (0,)), Op("RY", (0,), (Param("angle"),)))
    return Circuit(1, ops, each_z(1))


@pytest.mark.parametrize(
    ("circuit", "message"),
    [
        (reuploading(), "embeds its angles once"),
        (surface_circuit(11, 1), "up to 10 qubits, got 11"),
    ],
)
def test_heads_that_cannot_be_frozen(circuit, message):
    with pytest.raises(ModelError, match=message):
        FrozenHead(DressedHead(WIDTH, 2, circuit))


def test_a_frozen_head_checks_its_features():
    with pytest.raises(ModelError, match=r"takes features \(\.\.\., 6\), got \(2, 5\)"):
        module("frozen")(torch.zeros(2, 5))


@pytest.mark.parametrize("name", ["dressed", "affine"])
def test_vmap_and_grad_over_stacked_heads(name):
    heads = [module(name) for _ in range(3)]
    rows = features(5)
    with torch_stream(3, "stack"), torch.no_grad():
        for head in heads:
            head(rows)
            for parameter in head.parameters():
                parameter.add_(torch.randn_like(parameter))
    params, buffers = stack_module_state(heads)

    def loss(params, buffers, rows):
        return functional_call(heads[0], (params, buffers), (rows,)).square().sum()

    together = vmap(grad(loss), in_dims=(0, 0, None))(params, buffers, rows)
    for k, head in enumerate(heads):
        alone = torch.autograd.grad(head(rows).square().sum(), list(head.parameters()))
        for key, reference in zip(together, alone, strict=True):
            torch.testing.assert_close(together[key][k], reference, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["dressed", "affine", "retraced"])
def test_parameters_may_be_given_from_outside(name):
    """DataParallel's replicas hold their parameters as plain tensors; so does functional_call."""
    network, rows = module(name), features(3)
    expected = network(rows)
    params = {k: v.detach().clone().requires_grad_() for k, v in network.named_parameters()}
    replica = copy.deepcopy(network)
    for part_name, part in replica.named_modules():
        for key in list(part._parameters):
            value = params[f"{part_name}.{key}".lstrip(".")]
            part._parameters = {k: v for k, v in part._parameters.items() if k != key}
            setattr(part, key, value)
    torch.testing.assert_close(replica(rows), expected)
    torch.testing.assert_close(functional_call(network, params, (rows,)), expected)
    grads = torch.autograd.grad(replica(rows).sum(), list(params.values()))
    assert all(gradient.isfinite().all() for gradient in grads)


def test_autocast_does_not_reach_into_a_circuit():
    for circuit in (surface_circuit(5, 3), dressed_circuit(7, 2)):
        circuit = Circuit(circuit.n_qubits, circuit.ops, circuit.observables, (0, 2))
        with torch_stream(4, "autocast"):
            angles, weights = torch.randn(4, circuit.n_angles), torch.randn(circuit.n_weights)
        for simulate, backend in product((expvals, probabilities), ("torch", "native")):
            exact = simulate(circuit, angles, weights, backend)
            with torch.autocast("cpu", torch.bfloat16):
                assert torch.equal(simulate(circuit, angles, weights, backend), exact)


def test_modules_under_autocast_round_their_affine_layers_only(name):
    network, rows = module(name), features(8)
    exact = network(rows)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = network(rows)
    assert rounded.dtype == torch.bfloat16  # of the last affine layer
    torch.testing.assert_close(rounded.float(), exact, rtol=0, atol=0.05)


@pytest.mark.parametrize("function", [affine, retraced])
def test_a_layer_answers_in_float32_under_autocast_and_as_asked_without(function):
    layer, rows = qlayer(function), features(4)[:, :3].bfloat16()
    exact = layer(rows.float())
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(layer(rows), exact)
    assert torch.equal(layer(rows), exact.bfloat16())


def test_a_dressed_head_in_bfloat16_simulates_in_float32():
    head, rows = module("dressed"), features(6)
    exact = head(rows)
    logits = head.bfloat16()(rows.bfloat16())
    assert logits.dtype == torch.bfloat16
    torch.testing.assert_close(logits.float(), exact, rtol=0, atol=0.05)


@needs_cuda
def test_on_a_gpu_as_on_the_cpu(name):
    network, rows = module(name), features(8)
    expected = network(rows)
    there = copy.deepcopy(network).cuda()
    torch.testing.assert_close(there(rows.cuda()).cpu(), expected, rtol=0, atol=1e-5)
    if name != "frozen":
        there(rows.cuda()).sum().backward()
        assert all(p.grad.is_cuda and p.grad.isfinite().all() for p in there.parameters())


@needs_cuda
def test_data_parallel(name):
    network, rows = module(name).cuda(), features(8).cuda()
    parallel = nn.DataParallel(network, device_ids=[0, 0][: torch.cuda.device_count()])
    torch.testing.assert_close(parallel(rows), network(rows))
