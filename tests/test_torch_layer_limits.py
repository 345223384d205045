"""What the drop-in layer cannot translate: named, refused, or left to PennyLane."""

import numpy as np
import pennylane as qml
import pytest
import torch

from layer_pairs import inputs_of, pair, qnode, run
from qgraft.devices.torch_layer import TorchLayer
from qgraft.errors import CircuitError, ModelError


def channel(inputs, w):
    qml.RX(inputs[..., 0] * w, wires=0)
    qml.DepolarizingChannel(0.1, wires=0)
    return qml.expval(qml.Z(0))


def measuring(result):
    def function(inputs, w):
        qml.RX(inputs[..., 0] * w, wires=0)
        return result()

    return function


def amplitudes_and_angles(inputs, w):
    qml.AmplitudeEmbedding(inputs, wires=[0, 1], normalize=True)
    qml.RX(inputs[..., 0], wires=0)
    return qml.expval(qml.Z(0))


def complex_amplitudes(inputs, w):
    qml.AmplitudeEmbedding(inputs * 1j, wires=[0, 1], normalize=True)
    return qml.expval(qml.Z(0))


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (channel, "the operation DepolarizingChannel cannot be translated"),
        (measuring(lambda: qml.var(qml.Z(0))), r"the measurement var\(Z\(0\)\)"),
        (measuring(lambda: qml.state()), r"the measurement state\("),
        (measuring(lambda: {"z": qml.expval(qml.Z(0))}), "a qnode that returns dict"),
        (measuring(lambda: qml.probs(op=qml.X(0))), r"the measurement probs\(X\(0\)\)"),
        (
            measuring(lambda: qml.expval(qml.Hermitian(np.eye(64), range(6)))),
            "observable Hermitian",
        ),
        (amplitudes_and_angles, "AmplitudeEmbedding together with gates on a batch of angles"),
        (complex_amplitudes, "AmplitudeEmbedding with complex amplitudes"),
    ],
)
def test_what_cannot_be_translated_is_named(function, message):
    layer = TorchLayer(qnode(function, 6), {"w": 1})
    with pytest.raises(CircuitError, match=message) as raised:
        layer(inputs_of(2, 4))
    assert "pass fallback=True" in str(raised.value)


def test_sampling_transforms_and_hardware_are_not_followed():
    node = qnode(measuring(lambda: qml.expval(qml.Z(0))))
    for other, message in (
        (qml.set_shots(node, 100), "finite shots"),
        (qml.transforms.merge_rotations(node), "the transform .*merge_rotations"),
        (qml.QNode(node.func, qml.device("default.qutrit", 1)), "device 'default.qutrit'"),
    ):
        with pytest.raises(CircuitError, match=message):
            TorchLayer(other, {"w": 1})(torch.zeros(2, 1))


@pytest.mark.parametrize("lead", [(), (3,), (2, 3)])
@pytest.mark.parametrize("result", [lambda: qml.var(qml.Z(0)), lambda: [qml.var(qml.X(0))]])
def test_fallback_runs_on_pennylane(lead, result):
    ours, theirs = pair(qnode(measuring(result)), {"w": 1})
    ours.fallback = True
    inputs = inputs_of(*lead, 1)
    torch.testing.assert_close(run(ours, inputs), run(theirs, inputs))
    assert ours.translation == "pennylane"


def no_inputs(x, w):
    return qml.expval(qml.Z(0))


def open_ended(inputs, *w):
    return qml.expval(qml.Z(0))


NEEDS_W = qnode(channel)
MISTAKES = [
    ((no_inputs, {"w": 1}), "needs a PennyLane QNode, got function"),
    ((qnode(no_inputs), {"w": 1}), "needs an argument 'inputs'"),
    ((qnode(open_ended), {}), "variable number of positional"),
    ((NEEDS_W, {"w": 1, "inputs": 2}), "has no place in weight_shapes"),
    ((NEEDS_W, {"v": 1}), r"must name every argument .*\['w'\], got \['v'\]"),
    ((qnode(channel, interface="jax"), {"w": 1}), "interface is 'jax"),
    ((NEEDS_W, {"w": 1}, {"v": torch.ones(1)}), "no entry for weight 'w'"),
    ((NEEDS_W, {"w": 1}, {"w": torch.ones(2)}), r"weight 'w' the shape \(2,\)"),
]


@pytest.mark.parametrize(("arguments", "message"), MISTAKES)
def test_mistakes_are_explained(arguments, message):
    with pytest.raises(ModelError, match=message):
        TorchLayer(*arguments)


@pytest.mark.parametrize("inputs", [torch.ones(2, 3, dtype=torch.int64), torch.tensor(1.0)])
def test_inputs_are_rows_of_floats(inputs):
    with pytest.raises(ModelError, match="floating-point inputs"):
        TorchLayer(NEEDS_W, {"w": 1})(inputs)


def test_tuples_of_unequal_measurements_are_refused():
    node = qnode(measuring(lambda: (qml.expval(qml.Z(0)), qml.probs(wires=0))))
    with pytest.raises(ModelError, match="return them in a list"):
        TorchLayer(node, {"w": 1})(torch.zeros(2, 1))
