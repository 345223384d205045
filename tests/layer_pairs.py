"""Our drop-in layer and PennyLane's on the same weights, for tests that compare them."""

import numpy as np
import pennylane as qml
import torch

from qgraft.devices.torch_layer import TorchLayer

WIRES = 4


def qnode(function, wires=WIRES, **options):
    return qml.QNode(function, qml.device("default.qubit", wires=wires), **options)


def pair(node, shapes, dtype=torch.float64, **options):
    """Return our layer and PennyLane's with the same weights."""
    layers = []
    for kind in (TorchLayer, qml.qnn.TorchLayer):
        torch.manual_seed(1)
        layers.append(kind(node, shapes, **options).to(dtype))
    return layers


def run(layer, inputs):
    """Return outputs and the gradients of inputs and weights along one fixed direction."""
    inputs = inputs.clone().requires_grad_()
    outputs = layer(inputs)
    direction = torch.linspace(-1, 2, outputs.numel(), dtype=outputs.dtype)
    gradients = torch.autograd.grad(
        (outputs.flatten() * direction).sum(),
        [inputs, *layer.parameters()],
        allow_unused=True,
        materialize_grads=True,
    )
    return outputs, gradients


def assert_same(node, shapes, inputs, path, tolerance=1e-12, backend="auto"):
    ours, theirs = pair(node, shapes, inputs.dtype)
    ours.backend = backend
    expected, slopes = run(theirs, inputs)
    outputs, found = run(ours, inputs)
    assert ours.translation == path
    assert outputs.dtype == expected.dtype
    torch.testing.assert_close(outputs, expected, rtol=0, atol=tolerance)
    for gradient, reference in zip(found, slopes, strict=True):
        torch.testing.assert_close(gradient, reference, rtol=0, atol=10 * tolerance)


def inputs_of(*shape, dtype=torch.float64):
    return torch.from_numpy(np.random.default_rng(3).normal(size=shape)).to(dtype)
