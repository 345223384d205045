"""The dressed quantum circuit as a head: affine, circuit, affine (arXiv 1912.08278)."""

from __future__ import annotations

from math import pi
from typing import Literal

import torch
from torch import Tensor, nn

from qgraft.circuits.ansatz import surface_circuit
from qgraft.circuits.circuit import Circuit
from qgraft.errors import CircuitError, ModelError
from qgraft.heads.fused import can_fuse, fused_head
from qgraft.simulate.backends import Backend, active_backend, expvals


class DressedHead(nn.Module):
    """Pre-net, scaled tanh, circuit, optional ReLU, post-net: features to logits.

    The defaults are the network of arXiv 2409.00228 (five qubits, three strongly entangling
    layers, no scale); `scale=pi/2` is that of arXiv 1912.08278. `relu=True` discards negative
    expectation values, as Table II of 2409.00228 can be read.

    Args:
        n_features: width of the input.
        n_classes: number of logits.
        circuit: any circuit with observables; replaces the three options that follow.
        n_qubits: qubits of the default circuit.
        depth: strongly entangling layers of the default circuit.
        rotation: axis of the angle embedding of the default circuit.
        scale: factor on the tanh, so angles lie in (-scale, scale).
        relu: apply ReLU to the expectation values.
        init_spread: standard deviation of the initial circuit weights around 0; None draws them
            uniformly from [0, 2 pi), as PennyLane's TorchLayer does.
        backend: where the circuit runs: `"auto"`, `"native"` (compiled, CPU) or `"torch"`.

    Raises:
        CircuitError: the circuit has no observables or takes no input.
    """

    def __init__(
        self,
        n_features: int,
        n_classes: int,
        circuit: Circuit | None = None,
        *,
        n_qubits: int = 5,
        depth: int = 3,
        rotation: Literal["X", "Y", "Z"] = "X",
        scale: float = 1.0,
        relu: bool = False,
        init_spread: float | None = None,
        backend: Backend = "auto",
    ) -> None:
        super().__init__()
        self.circuit = circuit or surface_circuit(n_qubits, depth, rotation)
        if not self.circuit.observables or not self.circuit.n_angles:
            raise CircuitError("a dressed circuit needs angles to take in and observables")
        self.scale, self.relu, self.init_spread = scale, relu, init_spread
        self.backend: Backend = backend
        self.pre = nn.Linear(n_features, self.circuit.n_angles)
        self.weights = nn.Parameter(torch.empty(self.circuit.n_weights))
        self.post = nn.Linear(len(self.circuit.observables), n_classes)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw all parameters anew from torch's generator."""
        self.pre.reset_parameters()
        self.post.reset_parameters()
        if self.init_spread is None:
            nn.init.uniform_(self.weights, 0.0, 2 * pi)
        else:
            nn.init.normal_(self.weights, 0.0, self.init_spread)

    def forward(self, features: Tensor) -> Tensor:
        """Map features `(..., n_features)` to logits `(..., n_classes)`.

        Under autocast the two affine layers are rounded as autocast does; the circuit never is.
        """
        if features.shape[-1] != self.pre.in_features:
            raise ModelError(
                f"this head takes features (..., {self.pre.in_features}), "
                f"got {tuple(features.shape)}"
            )
        if self.active_backend(features) == "native" and can_fuse(
            self.pre, self.post, features, self.weights
        ):
            layers = self.pre, self.weights, self.post
            return fused_head(self.circuit, self.scale, self.relu, features, *layers)
        wide = torch.promote_types(self.weights.dtype, torch.float32)
        angles = torch.tanh(self.pre(features).to(wide)) * self.scale
        rows = angles.reshape(-1, angles.shape[-1])
        outputs = expvals(self.circuit, rows, self.weights.to(wide), self.backend)
        outputs = outputs.to(self.weights.dtype).reshape(*features.shape[:-1], outputs.shape[-1])
        return self.post(outputs.relu() if self.relu else outputs)

    def active_backend(self, features: Tensor) -> Literal["native", "torch"]:
        """Return the backend that runs the circuit for such features."""
        return active_backend(features, self.weights, self.backend)

    def extra_repr(self) -> str:
        """Describe the circuit in the module's printout."""
        circuit = self.circuit
        return f"n_qubits={circuit.n_qubits}, n_weights={circuit.n_weights}, scale={self.scale:g}"
