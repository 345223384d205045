"""The workloads as users of other libraries write them, each by its fastest route.

A builder returns a function that takes one full training step (forward, gradient, Adam) and
leaves nothing pending. A library that is not installed raises ImportError from its builder.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any, Literal, NamedTuple

import numpy as np

Step = Callable[[], None]

# (0,7),(0,1)... and then every second qubit: the ring order of arXiv 2208.14708.
QCNN_LAYERS = (
    ((0, 7), (0, 1), (2, 3), (4, 5), (6, 7), (1, 2), (3, 4), (5, 6)),
    ((0, 6), (0, 2), (4, 6), (2, 4)),
    ((0, 4),),
)
QCNN_QUBITS, QCNN_WEIGHTS, QCNN_READ = 8, 15, 4


class Workload(NamedTuple):
    """One thing to time.

    Attributes:
        name: its name in the table.
        kind: a dressed head with strongly entangling layers, or a quantum convolutional network
            of 13 SU4 blocks on amplitudes or angles.
        n_qubits: width of the circuit.
        n_features: width of the head's input; of a QCNN, amplitudes or angles.
        batch: samples per step.
        depth: strongly entangling layers.
        n_heads: heads that learn from the same samples in one step; jax maps over them.
    """

    name: str
    kind: Literal["head", "qcnn-amplitude", "qcnn-angle"]
    n_qubits: int = 5
    n_features: int = 128
    batch: int = 64
    depth: int = 3
    n_heads: int = 1


def inputs_of(workload: Workload) -> tuple[np.ndarray, np.ndarray]:
    """Return float32 inputs `(batch, n_features)` and labels `(batch,)`."""
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(workload.batch, workload.n_features)).astype(np.float32)
    return inputs, rng.integers(0, 2, workload.batch)


def su4_block(gate: Callable[..., Any], weights: Any, a: int, b: int) -> None:
    """Apply circuit 10 of arXiv 2208.14708 through `gate(name, wires, *parameters)`."""
    gate("U3", (a,), weights[0], weights[1], weights[2])
    gate("U3", (b,), weights[3], weights[4], weights[5])
    gate("CNOT", (a, b))
    gate("RY", (a,), weights[6])
    gate("RZ", (b,), weights[7])
    gate("CNOT", (b, a))
    gate("RY", (a,), weights[8])
    gate("CNOT", (a, b))
    gate("U3", (a,), weights[9], weights[10], weights[11])
    gate("U3", (b,), weights[12], weights[13], weights[14])


def apply_qcnn(gate: Callable[..., Any], weights: Any) -> None:
    """Apply the three convolution layers; blocks of a layer share their weights `(3, 15)`."""
    for layer, pairs in enumerate(QCNN_LAYERS):
        for a, b in pairs:
            su4_block(gate, weights[layer], a, b)


def _module(name: str) -> Any:
    """Import a peer that need not be installed."""
    return import_module(name)


def pennylane_torch(workload: Workload, device: str = "default.qubit") -> Step:
    """PennyLane's TorchLayer: backprop on default.qubit, adjoint on lightning.qubit."""
    qml = _module("pennylane")
    from torch import nn

    method = "backprop" if device == "default.qubit" else "adjoint"
    n = workload.n_qubits

    @qml.qnode(qml.device(device, wires=n), interface="torch", diff_method=method)
    def circuit(inputs, weights):
        _pennylane_gates(qml, workload, inputs, weights)
        if workload.kind == "head":
            return [qml.expval(qml.PauliZ(wire)) for wire in range(n)]
        return qml.probs(wires=QCNN_READ)

    if workload.kind == "head":
        layer = qml.qnn.TorchLayer(circuit, {"weights": (workload.depth, n, 3)})
        pre, post = nn.Linear(workload.n_features, n), nn.Linear(n, 2)
        model: nn.Module = nn.Sequential(pre, nn.Tanh(), layer, nn.ReLU(), post)
    else:
        shape = (len(QCNN_LAYERS), QCNN_WEIGHTS)
        model = qml.qnn.TorchLayer(circuit, {"weights": shape})
    return torch_step(model, workload)


def pennylane_lightning(workload: Workload) -> Step:
    """PennyLane's TorchLayer on the C++ simulator with adjoint gradients."""
    return pennylane_torch(workload, "lightning.qubit")


def torch_step(model: Any, workload: Workload) -> Step:
    """Return one Adam step of a torch model whose outputs are logits or two probabilities."""
    import torch
    from torch.nn import functional as F

    inputs, labels = map(torch.from_numpy, inputs_of(workload))
    optimiser = torch.optim.Adam(model.parameters(), 1e-3, fused=True)

    def step() -> None:
        optimiser.zero_grad(set_to_none=True)
        outputs = model(inputs)
        if workload.kind == "head":
            loss = F.cross_entropy(outputs, labels)
        else:
            loss = F.nll_loss((outputs + 1e-7).log(), labels)
        loss.backward()
        optimiser.step()

    return step


def _pennylane_gates(qml: Any, workload: Workload, inputs: Any, weights: Any) -> None:
    wires = range(workload.n_qubits)
    if workload.kind == "qcnn-amplitude":
        qml.AmplitudeEmbedding(inputs, wires=wires, normalize=True)
    else:
        qml.AngleEmbedding(inputs, wires=wires, rotation="Y")
    if workload.kind == "head":
        qml.StronglyEntanglingLayers(weights, wires=wires)
    else:
        apply_qcnn(lambda name, on, *values: getattr(qml, name)(*values, wires=on), weights)


def pennylane_jax(workload: Workload) -> Step:
    """PennyLane's default.qubit in jax, the whole step with Adam under one jit."""
    qml = _module("pennylane")

    n = workload.n_qubits

    @qml.qnode(qml.device("default.qubit", wires=n), interface="jax", diff_method="backprop")
    def circuit(inputs, weights):
        _pennylane_gates(qml, workload, inputs, weights)
        if workload.kind == "head":
            return [qml.expval(qml.PauliZ(wire)) for wire in range(n)]
        return qml.probs(wires=QCNN_READ)

    def outputs(inputs: Any, weights: Any) -> Any:
        values = circuit(inputs, weights)
        return _module("jax.numpy").stack(values, -1) if workload.kind == "head" else values

    return _jax_step(workload, outputs)


def tensorcircuit_jax(workload: Workload) -> Step:
    """TensorCircuit-NG on jax, vmapped over the batch, the whole step under one jit."""
    jax, jnp = _module("jax"), _module("jax.numpy")
    tc = _module("tensorcircuit")
    backend = tc.set_backend("jax")
    tc.set_dtype("complex64")
    n = workload.n_qubits

    def one(inputs: Any, weights: Any) -> Any:
        if workload.kind == "qcnn-amplitude":
            state = inputs / jnp.linalg.norm(inputs)
            circuit = tc.Circuit(n, inputs=state.astype(jnp.complex64))
        else:
            circuit = tc.Circuit(n)
            for wire in range(n):
                circuit.ry(wire, theta=inputs[wire])
        if workload.kind != "head":
            apply_qcnn(lambda name, on, *v: _tc_gate(circuit, name, on, v), weights)
            z = backend.real(circuit.expectation_ps(z=[QCNN_READ]))
            return jnp.stack([1 + z, 1 - z]) / 2
        for layer in range(workload.depth):
            for wire in range(n):
                phi, theta, omega = weights[layer, wire]
                circuit.rz(wire, theta=phi)
                circuit.ry(wire, theta=theta)
                circuit.rz(wire, theta=omega)
            for wire in range(n):
                circuit.cnot(wire, (wire + layer % (n - 1) + 1) % n)
        return jnp.stack([backend.real(circuit.expectation_ps(z=[w])) for w in range(n)])

    return _jax_step(workload, jax.vmap(one, (0, None)))


def _tc_gate(circuit: Any, name: str, on: tuple[int, ...], values: tuple[Any, ...]) -> None:
    if name == "U3":
        theta, phi, lam = values
        circuit.u(on[0], theta=theta, phi=phi, lbd=lam)
    elif name == "CNOT":
        circuit.cnot(*on)
    else:
        getattr(circuit, name.lower())(on[0], theta=values[0])


def _jax_step(workload: Workload, circuit: Callable[[Any, Any], Any]) -> Step:
    jax, jnp = _module("jax"), _module("jax.numpy")
    inputs, labels = map(jnp.asarray, inputs_of(workload))
    rng, n, wide = np.random.default_rng(1), workload.n_qubits, workload.n_features
    stack = (workload.n_heads,) if workload.n_heads > 1 else ()

    def draw(*shape: int) -> Any:
        numbers = rng.normal(size=(*stack, *shape)).astype(np.float32)
        return jnp.asarray(numbers / np.sqrt(shape[0]))

    if workload.kind == "head":
        parameters = {
            "pre": draw(wide, n), "pre_bias": draw(n), "weights": draw(workload.depth, n, 3),
            "post": draw(n, 2), "post_bias": draw(2),
        }  # fmt: skip
    else:
        parameters = {"weights": draw(len(QCNN_LAYERS), QCNN_WEIGHTS)}

    def loss(p: Any) -> Any:
        if workload.kind == "head":
            angles = jnp.tanh(inputs @ p["pre"] + p["pre_bias"])
            logits = jax.nn.relu(circuit(angles, p["weights"])) @ p["post"] + p["post_bias"]
            log_p = jax.nn.log_softmax(logits)
        else:
            log_p = jnp.log(circuit(inputs, p["weights"]) + 1e-7)
        return -jnp.take_along_axis(log_p, labels[:, None], 1).mean()

    def update(p: Any, m: Any, v: Any, t: Any) -> Any:
        grads = jax.grad(loss)(p)
        m = jax.tree.map(lambda old, g: 0.9 * old + 0.1 * g, m, grads)
        v = jax.tree.map(lambda old, g: 0.999 * old + 0.001 * g * g, v, grads)
        rate = 1e-3 * jnp.sqrt(1 - 0.999**t) / (1 - 0.9**t)
        p = jax.tree.map(lambda w, a, b: w - rate * a / (jnp.sqrt(b) + 1e-8), p, m, v)
        return p, m, v, t + 1

    zeros = jax.tree.map(jnp.zeros_like, parameters)
    state = [(parameters, zeros, zeros, jnp.asarray(1.0))]
    every = (0, 0, 0, None)  # heads side by side, one count of steps
    taken = jax.jit(jax.vmap(update, every, every) if stack else update)

    def step() -> None:
        state[0] = jax.block_until_ready(taken(*state[0]))

    return step


PEERS: dict[str, Callable[[Workload], Step]] = {
    "PennyLane torch": pennylane_torch,
    "PennyLane lightning": pennylane_lightning,
    "PennyLane jax.jit": pennylane_jax,
    "TensorCircuit-NG jax": tensorcircuit_jax,
}
