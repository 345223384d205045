"""The drop-in layer against `qml.qnn.TorchLayer` on the same weights."""

import numpy as np
import pennylane as qml
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from layer_pairs import WIRES, assert_same, inputs_of, pair, qnode, run
from qgraft.devices.torch_layer import TorchLayer
from qgraft.errors import CircuitError


def strongly_entangling(inputs, weights):
    qml.AngleEmbedding(inputs, wires=range(WIRES))
    qml.StronglyEntanglingLayers(weights, wires=range(WIRES))
    return [qml.expval(qml.Z(q)) for q in range(WIRES)]


def basic_entangler(inputs, weights):
    qml.AngleEmbedding(inputs, wires=range(WIRES), rotation="Y")
    qml.BasicEntanglerLayers(weights, wires=range(WIRES), rotation=qml.RZ)
    return qml.expval(qml.X(0) @ qml.Y(2))


def two_design(inputs, first, weights):
    qml.AmplitudeEmbedding(inputs, wires=range(WIRES), normalize=True)
    qml.SimplifiedTwoDesign(first, weights, wires=range(WIRES))
    return qml.probs(wires=[2, 0])


def padded(inputs, w):
    qml.AmplitudeEmbedding(inputs, wires=[2, 0, 1], pad_with=0.5)
    qml.BasicEntanglerLayers(w, wires=range(WIRES))
    return qml.probs(wires=[1, 3]), qml.probs(wires=[0, 2])


def gates(inputs, weights, single):
    qml.RX(2 * inputs[..., 1] - 0.3, wires=1)
    qml.IsingXX(weights[1], wires=[0, 1])
    qml.ctrl(qml.RX(-weights[0] / 2, wires=2), control=[0, 1], control_values=[0, 1])
    qml.ctrl(qml.adjoint(qml.S(2)), control=0)
    qml.adjoint(qml.CRot)(single, weights[0], weights[2], wires=[1, 2])
    qml.PauliRot(weights[3], "XZY", wires=[0, 2, 1])
    qml.MultiRZ(inputs[..., 0], wires=[0, 1, 2])
    qml.ctrl(qml.GlobalPhase(0.7), control=1)
    qml.ctrl(qml.U3(weights[2], single, weights[3], wires=0), control=2)
    qml.CSWAP(wires=[0, 1, 2])
    qml.QubitUnitary(np.array([[0, 1j], [1j, 0]]), wires=0)
    return [qml.probs(wires=[2, 0]), qml.expval(qml.X(0) @ qml.Y(1)), qml.expval(qml.Y(2))]


TEMPLATES = [
    (strongly_entangling, {"weights": (3, WIRES, 3)}, (6, WIRES)),
    (strongly_entangling, {"weights": (2, WIRES, 3)}, (WIRES,)),
    (strongly_entangling, {"weights": (1, WIRES, 3)}, (2, 3, WIRES)),
    (basic_entangler, {"weights": (2, WIRES)}, (5, WIRES)),
    (basic_entangler, {"weights": (2, WIRES)}, (WIRES,)),
    (two_design, {"first": (WIRES,), "weights": (2, WIRES - 1, 2)}, (3, 2**WIRES)),
    (padded, {"w": (1, WIRES)}, (1, 7)),
    (padded, {"w": (1, WIRES)}, (2, 2, 8)),
    (gates, {"weights": (4,), "single": 1}, (3, 2)),
    (gates, {"weights": 4, "single": 1}, (2,)),
]


@pytest.mark.parametrize("backend", ["torch", "native"])
@pytest.mark.parametrize(("function", "shapes", "size"), TEMPLATES)
def test_templates_are_translated_once_and_agree(function, shapes, size, backend):
    assert_same(qnode(function), shapes, inputs_of(*size), "affine", backend=backend)


def test_float32_stays_float32():
    inputs = inputs_of(6, WIRES, dtype=torch.float32)
    assert_same(qnode(strongly_entangling), {"weights": (3, WIRES, 3)}, inputs, "affine", 1e-6)


def reuploading(inputs, weights):
    for layer in range(2):
        for q in range(3):
            qml.RY(inputs[..., q] * weights[layer, q] + 0.1, wires=q)
        qml.CNOT([0, 1])
        qml.CNOT([1, 2])
    return qml.expval(qml.Z(2)), qml.expval(qml.X(0))


def functions(inputs, weights):
    qml.RX(torch.sin(inputs[..., 0]), wires=0)
    qml.RY(torch.clamp(inputs[..., 1], -0.5, 0.5), wires=1)
    qml.Rot(weights[0, 0] ** 2, weights[1].sum(), inputs.mean(-1), wires=1)
    qml.CNOT([0, 1])
    return [qml.expval(qml.Z(1)), qml.expval(qml.Y(0))]


def given_norm(inputs, weights):
    qml.AmplitudeEmbedding(inputs / torch.linalg.vector_norm(inputs, dim=-1, keepdim=True), [0, 1])
    qml.CRY(weights[0, 0], wires=[0, 1])
    return qml.expval(qml.Z(1))


def chosen_order(inputs, weights):
    order = torch.argsort(weights[0])
    for q in range(3):
        qml.RX(inputs[..., q], wires=q)
        qml.RY(weights[1][order[q]], wires=q)
    return [qml.expval(qml.Z(q)) for q in range(3)]


def across_samples(inputs, weights):
    centred = inputs - inputs.mean(0) if inputs.ndim > 1 else inputs
    qml.RX(centred[..., 0], wires=0)
    qml.RX(weights[0, 0], wires=0)
    return qml.expval(qml.Z(0))


def branching(inputs, weights):
    qml.RX(inputs[..., 0], wires=0)
    (qml.RX if weights.sum() > 1 else qml.RY)(weights[0, 0], wires=0)
    return qml.expval(qml.Z(0))


def behind_the_back_of_autograd(inputs, weights):
    with torch.no_grad():
        still = 2 * weights[0, 0]
    qml.RX(inputs[..., 0] + 0.5, wires=0)
    qml.RY(still, wires=0)
    qml.RX(weights[0, 1].detach(), wires=0)
    qml.RY(weights[weights > 0.1][0], wires=0)
    return qml.expval(qml.Z(0))


@pytest.mark.parametrize(
    ("function", "width"),
    [
        (branching, 1),
        (behind_the_back_of_autograd, 1),
        (reuploading, 3),
        (functions, 3),
        (given_norm, 4),
        (chosen_order, 3),
        (across_samples, 2),
    ],
)
@pytest.mark.parametrize("lead", [(), (1,), (4,)])
def test_expressions_are_kept_by_retracing(function, width, lead):
    path = "affine" if function is across_samples and not lead else "retraced"
    assert_same(qnode(function), {"weights": (2, 3)}, inputs_of(*lead, width), path)


def test_trainable_observables_are_refused():
    def function(inputs, w):
        qml.RX(inputs[..., 0], wires=0)
        return qml.expval(w * qml.Z(0) + qml.X(0))

    with pytest.raises(CircuitError, match="the trainable observable Sum"):
        TorchLayer(qnode(function), {"w": 1})(torch.zeros(2, 1))


def hamiltonian(inputs, w):
    qml.RX(inputs[..., 0], wires="a")
    qml.RY(w, wires=7)
    qml.CNOT(["a", 7])
    return [
        qml.expval(0.5 * qml.Z("a") - 0.25 * qml.X("a") @ qml.Y(7) + 2 * qml.I(7)),
        qml.expval(qml.Hermitian([[1, 2 - 1j], [2 + 1j, -1]], wires=7)),
        qml.expval(qml.Projector([0, 1], wires=[7, "a"])),
        qml.expval(qml.Z(7) + qml.Z("a")),
        qml.expval(qml.I("a")),
    ]


def test_linear_combinations_and_named_wires():
    node = qml.QNode(hamiltonian, qml.device("default.qubit"))
    assert_same(node, {"w": 1}, inputs_of(4, 2), "affine")


def whole(inputs, w):
    qml.RX(inputs[..., 0], wires=2)
    qml.CRY(w, wires=[2, 0])
    return qml.probs()


@pytest.mark.parametrize("wires", [4, [3, 2, 1, 0], None])
def test_probabilities_of_all_wires(wires):
    assert_same(qnode(whole, wires), {"w": 1}, inputs_of(3, 1), "affine")


MENU = {
    "RX": 1, "RY": 1, "RZ": 1, "PhaseShift": 1, "Rot": 3, "U3": 3, "U2": 2, "CRX": 1, "CRot": 3,
    "IsingYY": 1, "IsingZZ": 1, "SingleExcitation": 1, "ControlledPhaseShift": 1,
    "Hadamard": 0, "SX": 0, "CZ": 0, "ISWAP": 0, "Toffoli": 0, "CCZ": 0, "CH": 0, "PSWAP": 1,
}  # fmt: skip
EXPRESSIONS = {
    "input": lambda x, w, k: x[..., k % 2],
    "weight": lambda x, w, k: w[k % 5],
    "scaled": lambda x, w, k: 0.5 * x[..., k % 2] - 0.7,
    "shifted": lambda x, w, k: -2 * w[k % 5] + 0.1,
    "product": lambda x, w, k: x[..., k % 2] * w[k % 5],
    "constant": lambda x, w, k: torch.tensor(0.3 * k, dtype=x.dtype),
    "function": lambda x, w, k: torch.cos(x[..., k % 2]) + w[k % 5] ** 2,
}
GATE = st.tuples(
    st.sampled_from(sorted(MENU)),
    st.permutations(range(3)),
    st.lists(st.sampled_from(sorted(EXPRESSIONS)), min_size=3, max_size=3),
    st.sampled_from(["plain", "adjoint", "controlled"]),
)
WORD = st.lists(st.sampled_from("IXYZ"), min_size=4, max_size=4)


@settings(max_examples=30, deadline=None, derandomize=True, suppress_health_check=[*HealthCheck])
@given(st.lists(GATE, min_size=1, max_size=7), st.lists(WORD, min_size=1, max_size=3))
def test_random_qnodes_agree(chosen, words):
    def function(inputs, weights):
        for q in range(4):
            qml.RX(inputs[..., q % 2], wires=q)
            qml.RY(weights[q], wires=q)
        for k, (name, wires, names, how) in enumerate(chosen):
            gate = getattr(qml, name)
            params = [EXPRESSIONS[e](inputs, weights, k) for e in names[: MENU[name]]]
            wires = list(wires)[: gate.num_wires]
            if how == "controlled":
                gate = qml.ctrl(gate, control=3, control_values=k % 2)
            elif how == "adjoint":
                gate = qml.adjoint(gate)
            gate(*params, wires=wires)
        words_ = ["".join(word).replace("IIII", "IZII") for word in words]
        return [qml.expval(qml.pauli.string_to_pauli_word(word)) for word in words_]

    ours, theirs = pair(qnode(function), {"weights": (5,)})
    outputs, found = run(ours, inputs_of(3, 2))
    expected, slopes = run(theirs, inputs_of(3, 2))
    for one, other in zip([outputs, *found], [expected, *slopes], strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-11)


def test_the_circuit_may_change_from_call_to_call():
    def function(inputs, weights, depth=[1]):  # noqa: B006
        qml.RX(torch.sin(inputs[..., 0]), wires=0)
        for _ in range(depth[0]):
            qml.RY(weights[0], wires=0)
        depth[0] += 1
        return qml.expval(qml.Z(0))

    layer = TorchLayer(qnode(lambda inputs, weights: function(inputs, weights)), {"weights": 2})
    first, second = layer(torch.zeros(2, 1)), layer(torch.zeros(2, 1))
    assert not torch.allclose(first, second)


def test_state_dicts_are_interchangeable():
    shapes = {"weights": (4,), "single": 1}
    torch.manual_seed(1)
    ours = TorchLayer(qnode(gates), shapes)
    theirs = qml.qnn.TorchLayer(qnode(gates), shapes)
    assert {k: v.shape for k, v in ours.state_dict().items()} == {
        k: v.shape for k, v in theirs.state_dict().items()
    }
    inputs = inputs_of(3, 2, dtype=torch.float32)
    theirs.load_state_dict(ours.state_dict())
    torch.testing.assert_close(theirs(inputs), ours(inputs))
    other = TorchLayer(qnode(gates), shapes)
    other.load_state_dict(theirs.state_dict())
    assert torch.equal(other(inputs), ours(inputs))


def test_initial_weights_are_those_of_pennylane():
    for options in (
        {},
        {"init_method": torch.nn.init.normal_},
        {"init_method": {"weights": torch.arange(4.0), "single": torch.nn.init.ones_}},
    ):
        ours, theirs = pair(qnode(gates), {"weights": 4, "single": 1}, torch.float32, **options)
        for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
            assert torch.equal(one, other)
