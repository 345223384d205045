"""A trained head on something other than an ideal simulator: shots, noise, a device."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from qgraft.circuits.circuit import Circuit
from qgraft.errors import ModelError
from qgraft.heads.dressed import DressedHead
from qgraft.heads.qcnn import FLOOR, QcnnHead
from qgraft.seeds import derive
from qgraft.simulate.execution import Execution, run_expvals, run_probabilities

Run = Callable[[Circuit, Tensor, Tensor], Tensor]


class MeasuredHead(nn.Module):
    """The same head, its circuit run elsewhere; it shares the parameters of `head`.

    Args:
        head: a dressed head or a quantum convolutional network.
        run: maps circuit, angles and weights to what the head reads: expectation values
            `(batch, n_observables)` of a dressed head, probabilities `(batch, 2**k)` of a
            convolutional network.

    Raises:
        ModelError: the head has no circuit that could run elsewhere.
    """

    def __init__(self, head: nn.Module, run: Run) -> None:
        super().__init__()
        self.head, self.run = with_circuit(head), run

    @property
    def circuit(self) -> Circuit:
        """The circuit that runs."""
        return self.head.circuit

    def forward(self, features: Tensor) -> Tensor:
        """Map features `(batch, n_features)` to logits `(batch, n_classes)`."""
        head = self.head
        outputs = self.run(head.circuit, circuit_inputs(head, features), head.weights)
        outputs = outputs.to(head.weights.dtype)
        if isinstance(head, QcnnHead):
            return (outputs[:, : head.n_classes].clamp_min(0.0) + FLOOR).log()
        return head.post(outputs.relu() if head.relu else outputs)


def with_circuit(head: nn.Module) -> DressedHead | QcnnHead:
    """Return the head itself.

    Raises:
        ModelError: it has no circuit that could run elsewhere.
    """
    if isinstance(head, DressedHead | QcnnHead):
        return head
    raise ModelError(
        f"a {type(head).__name__} has no circuit to run elsewhere; give a dressed head or a "
        "quantum convolutional network"
    )


def circuit_inputs(head: DressedHead | QcnnHead, features: Tensor) -> Tensor:
    """Return what enters the head's circuit, `(batch, n_angles)`."""
    if isinstance(head, QcnnHead):
        return head.inputs(features, torch.promote_types(head.weights.dtype, torch.float32))
    return torch.tanh(head.pre(features)) * head.scale


def measured_head(head: nn.Module, how: Execution, seed: int = 0) -> MeasuredHead:
    """Return the head under shots, noise and mitigation; `seed` decides the outcomes.

    Every call goes on in one random stream, so two batches do not share their errors.
    """
    generator = torch.Generator().manual_seed(derive(seed, "shots"))
    run = run_probabilities if isinstance(head, QcnnHead) else run_expvals

    def execute(circuit: Circuit, angles: Tensor, weights: Tensor) -> Tensor:
        return run(how, circuit, angles, weights, generator)

    return MeasuredHead(head, execute)
