"""A trained dressed head without its circuit: real matrices only, for export and serving.

With frozen weights a circuit that embeds its angles first is a quadratic form. The embedded
state is a product of RY rotations of |0>, hence real, `phi(x)`; the rest is a fixed unitary U, so
`<P> = phi^T Re(U^dagger P U) phi` with one real symmetric matrix per observable.
"""

from __future__ import annotations

import copy
from math import pi

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qgraft.circuits.circuit import Circuit, Op, Param, PauliWord
from qgraft.errors import ModelError
from qgraft.heads.dressed import DressedHead
from qgraft.simulate.plan import take_product
from qgraft.simulate.statevector import exactly, state

MAX_QUBITS = 10  # the matrices hold 4**n_qubits numbers per observable


class FrozenHead(nn.Module):
    """A dressed head with its weights built in: the same logits from real arithmetic alone.

    Exports with any batch size through `torch.export` and ONNX. Holds no trainable parameters;
    gradients with respect to the features are kept.

    Args:
        head: a head whose circuit takes its angles, or amplitudes, once and at the start.

    Raises:
        ModelError: the circuit takes angles later on, or has more than 10 qubits.
    """

    shift: Tensor
    by_angle: Tensor
    operators: Tensor

    def __init__(self, head: DressedHead) -> None:
        super().__init__()
        circuit, weights = head.circuit, head.weights.detach()
        rotations, ops = ({}, circuit.ops) if circuit.amplitudes else take_product(circuit.ops)
        if any(op.uses("angle") for op in ops):
            raise ModelError(
                "only a head that embeds its angles once, in rotations X or Y of single qubits "
                "before all other gates, can be frozen; export the head itself instead"
            )
        if circuit.n_qubits > MAX_QUBITS:
            raise ModelError(
                f"a frozen head may have up to {MAX_QUBITS} qubits, got {circuit.n_qubits}; "
                "export the head itself instead"
            )
        self.scale, self.relu, self.amplitudes = head.scale, head.relu, circuit.amplitudes
        self.n_features = head.pre.in_features
        self.pre, self.post = copy.deepcopy((head.pre, head.post))
        self.requires_grad_(False).eval()
        shift, by_angle = _half_turns(circuit, rotations)
        operators = _operators(circuit, ops, weights)
        for name, value in (("shift", shift), ("by_angle", by_angle), ("operators", operators)):
            self.register_buffer(name, value.to(weights))

    def forward(self, features: Tensor) -> Tensor:
        """Map features `(..., n_features)` to logits `(..., n_classes)`."""
        if features.shape[-1] != self.n_features:
            raise ModelError(
                f"this head takes features (..., {self.n_features}), got {tuple(features.shape)}"
            )
        angles = torch.tanh(self.pre(features).to(self.operators.dtype)) * self.scale
        with exactly(angles):
            values = self._expvals(angles)
        return self.post(values.relu() if self.relu else values)

    def _expvals(self, angles: Tensor) -> Tensor:
        dim, columns = self.operators.shape
        if self.amplitudes:
            phi = F.normalize(angles, dim=-1, eps=torch.finfo(angles.dtype).tiny)
        else:
            halves = F.linear(angles, self.by_angle, self.shift)
            phi = halves.unflatten(-1, (dim, -1)).cos().prod(-1)
        images = (phi @ self.operators).unflatten(-1, (columns // dim, dim))
        return (images @ phi.unsqueeze(-1)).squeeze(-1)


def _half_turns(circuit: Circuit, rotations: dict[int, Param]) -> tuple[Tensor, Tensor]:
    """Return the affine map to what entry j of phi multiplies the cosines of.

    `phi_j = prod_q cos(t_q / 2 - bit_q(j) pi / 2)`, a cosine for a bit 0 and a sine for a bit 1.
    """
    n, states = circuit.n_qubits, torch.arange(2**circuit.n_qubits)
    if circuit.amplitudes:
        return torch.zeros(0), torch.zeros(0, 0)
    shift = torch.zeros(2**n, n, dtype=torch.float64)
    by_angle = torch.zeros(2**n, n, circuit.n_angles, dtype=torch.float64)
    for qubit in range(n):
        param = rotations.get(qubit, Param("constant"))
        bit = (states >> (n - 1 - qubit) & 1).double()
        shift[:, qubit] = param.offset / 2 - bit * pi / 2
        if param.source == "angle":
            by_angle[:, qubit, param.index] = param.scale / 2
    return shift.flatten(), by_angle.flatten(0, 1)


def _operators(circuit: Circuit, ops: tuple[Op, ...], weights: Tensor) -> Tensor:
    """Return `Re(U^dagger P U)` of all observables side by side, `(2**n, n_observables * 2**n)`."""
    basis = torch.eye(2**circuit.n_qubits, dtype=torch.float64, device=weights.device)
    numbers = weights.double()

    def evolved(word: PauliWord) -> Tensor:
        extra = tuple(Op(letter, (qubit,)) for letter, qubit in word)
        whole = Circuit(circuit.n_qubits, ops + extra, circuit.observables, amplitudes=True)
        return state(whole, basis, numbers[: whole.n_weights])

    plain = evolved(())
    return torch.cat([(plain.conj() @ evolved(w).mT).real for w in circuit.observables], dim=1)
