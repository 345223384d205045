"""Workloads without training: one sample through a trained head, one batch through a trunk."""

from __future__ import annotations

import contextlib
import io
from importlib import import_module

import torch
from torch import nn

from qgraft.bench.peers import Step, Workload
from qgraft.heads.dense import DenseHead
from qgraft.heads.dressed import DressedHead
from qgraft.heads.frozen import FrozenHead
from qgraft.seeds import torch_stream
from qgraft.trunks.surface_cnn import INPUT_SIZE, surface_cnn

Contestants = dict[str, tuple[Step, float]]
N_IMAGES = 64


def single_sample(workload: Workload) -> Contestants:
    """Return what can score one sample: features `(1, n_features)` to logits, already trained."""
    with torch_stream(0, "bench single"):
        head = DressedHead(workload.n_features, 2, n_qubits=workload.n_qubits, relu=True).eval()
        dense = DenseHead(workload.n_features, 2, widths=(128, 64, 16)).eval()
        features = torch.randn(1, workload.n_features)
    frozen = FrozenHead(head)
    ours: Contestants = {}
    with contextlib.suppress(ImportError):
        ours["qgraft frozen head, ONNX Runtime"] = (_onnx(frozen, features), 1)
    ours["qgraft frozen head, torch"] = (_without_gradient(frozen, features), 1)
    ours["qgraft layer"] = (_without_gradient(head, features), 1)
    ours["dense head (classical)"] = (_without_gradient(dense, features), 1)
    with contextlib.suppress(ImportError):
        ours["PennyLane torch"] = (_without_gradient(_pennylane(workload), features), 1)
    return ours


def trunk_forward() -> Contestants:
    """Return CM-2 on 64 images `(64, 1, 200, 200)`, in qgraft's memory layout and in torch's."""
    with torch_stream(0, "bench trunk"):
        ours = surface_cnn("cm2").eval()
        images = torch.rand(N_IMAGES, 1, INPUT_SIZE, INPUT_SIZE)
    plain = surface_cnn("cm2").eval()
    plain.load_state_dict(ours.state_dict())
    ours.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    last = images.contiguous(memory_format=torch.channels_last)
    return {
        "qgraft trunk (channels last)": (_without_gradient(ours, last), 1),
        "the same in torch's default layout": (_without_gradient(plain, images), 1),
        "as printed: ReLU before the pool": (_without_gradient(_as_printed(plain), images), 1),
    }


def _as_printed(model: nn.Sequential) -> nn.Sequential:
    """Return the network with every ReLU in front of its max pooling, as users write it."""
    layers = list(model)
    for at in range(len(layers) - 1):
        if isinstance(layers[at], nn.MaxPool2d) and isinstance(layers[at + 1], nn.ReLU):
            layers[at], layers[at + 1] = layers[at + 1], layers[at]
    return nn.Sequential(*layers)


def _without_gradient(model: nn.Module, inputs: torch.Tensor) -> Step:
    @torch.inference_mode()
    def step() -> None:
        model(inputs)

    return step


def _onnx(model: nn.Module, features: torch.Tensor) -> Step:
    """Return one call of ONNX Runtime on the exported model; it needs the extra `export`."""
    runtime = import_module("onnxruntime")
    import_module("onnxscript")
    program = torch.onnx.export(model, (features,), dynamo=True, verbose=False)
    assert program is not None
    file = io.BytesIO(program.model_proto.SerializeToString())
    options = runtime.SessionOptions()
    options.intra_op_num_threads = 1
    session = runtime.InferenceSession(file.getvalue(), options)
    inputs = {session.get_inputs()[0].name: features.numpy()}
    return lambda: session.run(None, inputs)


def _pennylane(workload: Workload) -> nn.Module:
    qml = import_module("pennylane")
    wires = range(workload.n_qubits)

    @qml.qnode(qml.device("default.qubit", wires=wires), interface="torch")
    def circuit(inputs, weights):
        qml.AngleEmbedding(inputs, wires=wires, rotation="Y")
        qml.StronglyEntanglingLayers(weights, wires=wires)
        return [qml.expval(qml.PauliZ(wire)) for wire in wires]

    layer = qml.qnn.TorchLayer(circuit, {"weights": (workload.depth, workload.n_qubits, 3)})
    pre, post = nn.Linear(workload.n_features, workload.n_qubits), nn.Linear(workload.n_qubits, 2)
    return nn.Sequential(pre, nn.Tanh(), layer, nn.ReLU(), post)
