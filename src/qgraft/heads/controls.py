"""Controls: heads that take the quantum part of a dressed head away, one aspect at a time.

Each is built from the options of the dressed head it stands beside and, from the same random
stream, starts with the same pre-net, so a study can pair them fold by fold. Together they tell
what the circuit, its training and its entanglement are worth (in arXiv 2403.07059 classical models
often did better, and removing entanglement often did not hurt).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from qgraft.heads.dressed import DressedHead


class Sine(nn.Module):
    """The periodic activation: a circuit on angles is a Fourier series of its inputs."""

    def forward(self, values: Tensor) -> Tensor:
        """Return the sine of every value."""
        return torch.sin(values)


class ScaledTanh(nn.Module):
    """The tanh of a dressed head: angles in (-scale, scale)."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, values: Tensor) -> Tensor:
        """Return `scale * tanh(values)`."""
        return torch.tanh(values) * self.scale


class MatchedHead(nn.Sequential):
    """A dense head of the dressed head's width and, as nearly as possible, parameter count.

    The pre-net is the same; one hidden layer stands in place of circuit and post-net. With h
    hidden units, `h (n_angles + 1 + n_classes)` is closest to `n_weights + n_outputs n_classes`.

    Args:
        n_features: width of the input.
        n_classes: number of logits.
        activation: `"tanh"`, or `"sine"` for a head as periodic as a circuit.
        **dressed: options of the dressed head to match.
    """

    def __init__(
        self,
        n_features: int,
        n_classes: int,
        *,
        activation: Literal["tanh", "sine"] = "tanh",
        **dressed: Any,
    ) -> None:
        twin = DressedHead(n_features, n_classes, **dressed)
        width, n_outputs = twin.pre.out_features, twin.post.in_features
        inner = twin.weights.numel() + n_outputs * n_classes
        hidden = max(1, round(inner / (width + 1 + n_classes)))
        bend = nn.Tanh if activation == "tanh" else Sine
        super().__init__(
            twin.pre, bend(),
            nn.Linear(width, hidden), bend(),
            nn.Linear(hidden, n_classes),
        )  # fmt: skip


class NoCircuitHead(nn.Sequential):
    """The dressed head with its circuit replaced by the identity: affine, scaled tanh, affine."""

    def __init__(self, n_features: int, n_classes: int, **dressed: Any) -> None:
        twin = DressedHead(n_features, n_classes, **dressed)
        layers = [twin.pre, ScaledTanh(twin.scale)]
        layers += [nn.ReLU()] if twin.relu else []
        super().__init__(*layers, nn.Linear(twin.pre.out_features, n_classes))


def sine_head(n_features: int, n_classes: int, **dressed: Any) -> MatchedHead:
    """Build a matched dense head with the sine as its activation."""
    return MatchedHead(n_features, n_classes, activation="sine", **dressed)


def frozen_circuit_head(n_features: int, n_classes: int, **dressed: Any) -> DressedHead:
    """Build a dressed head whose circuit keeps its random initial weights."""
    head = DressedHead(n_features, n_classes, **dressed)
    head.weights.requires_grad_(False)
    return head


def no_entanglers_head(n_features: int, n_classes: int, **dressed: Any) -> DressedHead:
    """Build a dressed head without the gates that act on several qubits."""
    with torch.device("meta"):  # for its shape only: nothing random is drawn twice
        twin = DressedHead(n_features, n_classes, **dressed)
    alone = tuple(op for op in twin.circuit.ops if len(op.qubits) == 1)
    kept = {key: dressed[key] for key in ("init_spread", "backend") if key in dressed}
    circuit = replace(twin.circuit, ops=alone)
    return DressedHead(n_features, n_classes, circuit, scale=twin.scale, relu=twin.relu, **kept)
