"""The quantum convolutional network as a head: features straight into the circuit.

Kim, Huh and Park (arXiv 2208.14708) put no layer between trunk and circuit. That is kept where the
features fit the embedding; elsewhere a trainable affine layer brings them to its width.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import pi
from string import ascii_lowercase
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from qgraft.circuits.embeddings import embed
from qgraft.circuits.qcnn import Topology, qcnn_circuit
from qgraft.errors import ModelError
from qgraft.simulate.backends import Backend, active_backend, probabilities
from qgraft.simulate.statevector import exactly

FLOOR = 1e-7  # added to a probability before its logarithm, as published


class QcnnHead(nn.Module):
    """Features into a quantum convolutional network, logarithms of probabilities out.

    Two classes are read from one qubit, as published; more classes from as many qubits as they
    need (our extension). The logits are `log(p + 1e-7)`, so that their cross-entropy is the
    published cost and their softmax gives the probabilities back.

    Args:
        n_features: width of the input.
        n_classes: number of logits.
        ansatz: convolution block, see `qgraft.circuits.blocks.CONVOLUTIONS`.
        pooling: pooling block, see `qgraft.circuits.blocks.POOLINGS`.
        embedding: one of `qgraft.circuits.embeddings.EMBEDDINGS`.
        n_qubits: 2, 4, 8 or 16.
        topology: `"ring"`, `"chain"` or `"tree"`.
        pre_net: put an affine layer before the circuit; by default only where the features do not
            fit: up to `2**n_qubits` amplitudes are filled up with zeros, angles must be exact.
        scale: with a pre-net, angles are `scale * tanh(...)`.
        init_spread: standard deviation of the initial circuit weights, 1 as published.
        backend: where the circuit runs: `"auto"`, `"native"` (compiled, CPU) or `"torch"`.

    Raises:
        CircuitError: there is no such circuit.
        ModelError: the classes are more than the circuit can tell apart, or the features do not
            fit and `pre_net` is False.
    """

    def __init__(
        self,
        n_features: int,
        n_classes: int,
        *,
        ansatz: str = "su4",
        pooling: str = "generalised",
        embedding: str = "amplitude",
        n_qubits: int = 8,
        topology: Topology = "ring",
        pre_net: bool | None = None,
        scale: float = pi / 2,
        init_spread: float = 1.0,
        backend: Backend = "auto",
    ) -> None:
        super().__init__()
        if n_classes < 2:
            raise ModelError(f"a quantum convolutional network needs 2 classes, got {n_classes}")
        n_read = (n_classes - 1).bit_length()
        self.circuit = qcnn_circuit(
            ansatz, pooling, embedding, n_qubits=n_qubits, n_read=n_read, topology=topology
        )
        self.entry = embed(embedding, n_qubits)
        self.n_features, self.n_classes = n_features, n_classes
        self.scale, self.init_spread = scale, init_spread
        self.backend: Backend = backend
        width = self.entry.width
        fits = n_features == width or (embedding == "amplitude" and n_features < width)
        if pre_net is False and not fits:
            raise ModelError(
                f"the {embedding} embedding of {n_qubits} qubits takes {width} features, got "
                f"{n_features}; leave pre_net out to have an affine layer in between"
            )
        with_layer = not fits if pre_net is None else pre_net
        self.pre = nn.Linear(n_features, width) if with_layer else None
        self.weights = nn.Parameter(torch.empty(self.circuit.n_weights))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw all parameters anew from torch's generator."""
        if self.pre is not None:
            self.pre.reset_parameters()
        nn.init.normal_(self.weights, 0.0, self.init_spread)

    def forward(self, features: Tensor) -> Tensor:
        """Map features `(..., n_features)` to logits `(..., n_classes)`."""
        if features.shape[-1] != self.n_features:
            raise ModelError(
                f"this head takes features (..., {self.n_features}), got {tuple(features.shape)}"
            )
        wide = torch.promote_types(self.weights.dtype, torch.float32)
        with exactly(features):
            rows = self.inputs(features.reshape(-1, self.n_features), wide)
            outcomes = probabilities(self.circuit, rows, self.weights.to(wide), self.backend)
            logits = (outcomes[:, : self.n_classes] + FLOOR).log()
        return logits.to(self.weights.dtype).reshape(*features.shape[:-1], self.n_classes)

    def inputs(self, rows: Tensor, kind: torch.dtype = torch.float32) -> Tensor:
        """Return what enters the circuit, `(batch, n_angles)`."""
        if self.pre is not None:
            rows = self.pre(rows.to(self.pre.weight.dtype))
            if not self.circuit.amplitudes:
                rows = self.scale * torch.tanh(rows.to(kind))
        rows = rows.to(kind)
        if self.entry.blocks and self.circuit.amplitudes:
            return joined_amplitudes(rows, self.entry.blocks)
        missing = self.entry.width - rows.shape[1]
        return F.pad(rows, (0, missing)) if missing else rows

    def active_backend(self, features: Tensor) -> Literal["native", "torch"]:
        """Return the backend that runs the circuit for such features."""
        return active_backend(features, self.weights, self.backend)

    def extra_repr(self) -> str:
        """Describe the circuit in the module's printout."""
        return f"n_qubits={self.circuit.n_qubits}, n_weights={self.circuit.n_weights}"


def joined_amplitudes(rows: Tensor, blocks: Sequence[Sequence[int]]) -> Tensor:
    """Return the amplitudes `(batch, 2**n)` of blocks of qubits that are not entangled.

    The rows hold the amplitudes of one block after the other; each block is normalised by itself
    (hybrid direct embedding, arXiv 2108.00661).
    """
    tables = []
    for part, block in zip(rows.chunk(len(blocks), dim=1), blocks, strict=True):
        unit = F.normalize(part, dim=1, eps=torch.finfo(rows.dtype).tiny)
        tables.append(unit.unflatten(1, (2,) * len(block)))
    letters = ["z" + "".join(ascii_lowercase[q] for q in block) for block in blocks]
    qubits = "z" + ascii_lowercase[: sum(map(len, blocks))]
    return torch.einsum(f"{','.join(letters)}->{qubits}", *tables).flatten(1)
