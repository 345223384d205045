"""The student network of Hasan and Mahdy, version 1 (arXiv 2311.13810), and its variations.

Convolutions to 50 numbers, one angle per qubit, a Hadamard and an RY on every qubit, the relative
frequencies of all outcomes, their sigmoid and its complement as logits. The published circuit has
no entangling gate and no trainable weight: every parameter is classical. Outcomes are listed in
Qiskit's order, whose bit for qubit 0 is the last.
"""

from __future__ import annotations

from math import pi, sqrt
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from qgraft.circuits.ansatz import strongly_entangling
from qgraft.circuits.circuit import Circuit, Op
from qgraft.circuits.embeddings import angle_embedding
from qgraft.errors import ModelError
from qgraft.seeds import derive
from qgraft.simulate.backends import probabilities

CircuitKind = Literal["product", "entangling", "none"]
ReadOut = Literal["sigmoid", "linear"]
SHIFT = pi / 4  # of the published parameter shift
PUBLISHED_SLOPE = sqrt(2)  # the published difference is not divided by 2 sin(pi / 4)
HIDDEN = 50
MAX_SHOTS = 10**6


def product_probabilities(angles: Tensor) -> Tensor:
    """Return the outcome probabilities `(batch, 2**n)` of H and RY(angle) on each qubit.

    P(1) of a qubit is `(1 + sin(angle)) / 2`; qubit 0 is the least significant bit.
    """
    ones = (1 + torch.sin(angles)) / 2
    joint = torch.ones_like(angles[:, :1])
    for qubit in range(angles.shape[1]):  # a later qubit is a more significant bit
        one = ones[:, qubit : qubit + 1]
        joint = torch.cat([joint * (1 - one), joint * one], dim=1)
    return joint


def sample_frequencies(
    outcomes: Tensor, shots: int, generator: torch.Generator | None = None
) -> Tensor:
    """Return relative frequencies `(..., k)` of `shots` draws from probabilities `(..., k)`.

    A multinomial draw, outcome by outcome as binomials of what is left. Without a generator
    torch's own is drawn from.
    """
    wide = outcomes.double()
    left, rest = torch.full_like(wide[..., 0], shots), torch.ones_like(wide[..., 0])
    counts = []
    for k in range(wide.shape[-1] - 1):
        share = (wide[..., k] / rest.clamp_min(1e-300)).clamp(0, 1)
        counts.append(torch.binomial(left, share, generator=generator))
        left, rest = left - counts[-1], rest - wide[..., k]
    return (torch.stack([*counts, left], dim=-1) / shots).to(outcomes.dtype)


class _Shots(torch.autograd.Function):
    """Sampled frequencies whose gradient is sampled as well, by the parameter shift."""

    @staticmethod
    def forward(
        ctx: Any, angles: Tensor, shots: int, generator: torch.Generator | None
    ) -> Tensor:  # fmt: skip
        """Return the relative frequencies `(batch, 2**n)`."""
        ctx.save_for_backward(angles)
        ctx.shots, ctx.generator = shots, generator
        return sample_frequencies(product_probabilities(angles), shots, generator)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        """Return the gradient `(batch, n)` from two shifted circuits per angle."""
        (angles,) = ctx.saved_tensors
        n = angles.shape[1]
        shifts = SHIFT * torch.eye(n, dtype=angles.dtype)
        shifted = angles[None, :, None, :] + torch.stack([shifts, -shifts])[:, None]
        outcomes = product_probabilities(shifted.reshape(-1, n))
        sampled = sample_frequencies(outcomes, ctx.shots, ctx.generator)
        above, below = sampled.reshape(2, len(angles), n, -1)
        slopes = (above - below) / PUBLISHED_SLOPE  # 2 sin(pi / 4), the exact rule for RY
        return (slopes * grads[0][:, None]).sum(-1), None, None


class ProductReadout(nn.Module):
    """The published circuit: angles `(batch, n)` to frequencies `(batch, 2**n)`.

    Args:
        n_qubits: number of angles.
        shots: runs of the circuit for each sample; None for exact probabilities.
        published_gradient: scale gradients by sqrt(2), as the published code does.
        seed: decides the draws in evaluation, which are the same at every call. In training they
            come from torch's generator.
    """

    def __init__(
        self,
        n_qubits: int,
        *,
        shots: int | None = None,
        published_gradient: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if shots is not None and not 1 <= shots <= MAX_SHOTS:
            raise ModelError(f"shots must be from 1 to {MAX_SHOTS:,}, got {shots}")
        self.n_qubits, self.shots, self.seed = n_qubits, shots, seed
        self.published_gradient = published_gradient

    def forward(self, angles: Tensor) -> Tensor:
        """Return exact probabilities or sampled relative frequencies."""
        if self.published_gradient:
            angles = PUBLISHED_SLOPE * angles - ((PUBLISHED_SLOPE - 1) * angles).detach()
        if self.shots is None:
            return product_probabilities(angles)
        generator = None
        if not self.training:
            generator = torch.Generator().manual_seed(derive(self.seed, "shots"))
        sampled: Any = _Shots.apply(angles, self.shots, generator)
        return sampled

    def extra_repr(self) -> str:
        """Describe the circuit in the module's printout."""
        return f"n_qubits={self.n_qubits}, shots={self.shots}"


class EntanglingReadout(nn.Module):
    """The published circuit followed by trainable strongly entangling layers.

    Args:
        n_qubits: number of angles.
        depth: layers, `3 n_qubits` weights each.
    """

    def __init__(self, n_qubits: int, depth: int = 2) -> None:
        super().__init__()
        ops = tuple(Op("H", (qubit,)) for qubit in range(n_qubits))
        ops += angle_embedding(n_qubits, "Y") + strongly_entangling(n_qubits, depth)
        order = tuple(reversed(range(n_qubits)))  # Qiskit's: qubit 0 is the last bit
        self.circuit = Circuit(n_qubits, ops, probabilities=order)
        self.weights = nn.Parameter(0.1 * torch.randn(self.circuit.n_weights))

    def forward(self, angles: Tensor) -> Tensor:
        """Return the outcome probabilities `(batch, 2**n)`."""
        return probabilities(self.circuit, angles, self.weights)


class SigmoidReadOut(nn.Module):
    """The published read-out: the sigmoid of each probability, then its complement.

    The logits lie in 0.5..0.731 and 0.269..0.5, so their softmax can never be sharp: with 16 of
    them the cross-entropy is at least 2.545.
    """

    def forward(self, outcomes: Tensor) -> Tensor:
        """Map probabilities `(batch, 2**n)` to logits `(batch, 2 * 2**n)`."""
        p = torch.sigmoid(outcomes)
        return torch.cat([p, 1 - p], dim=1)


class AngleNet(nn.Sequential):
    """Images `(batch, 1, 28, 28)` in 0..1 to angles `(batch, n)` in (-pi, pi).

    21,483 parameters for 3 qubits, 21,534 for 4.
    """

    def __init__(self, n_qubits: int) -> None:
        super().__init__(
            nn.Conv2d(1, 10, 5), nn.MaxPool2d(2), nn.ReLU(),
            nn.Conv2d(10, 20, 5), nn.Dropout2d(0.5), nn.MaxPool2d(2), nn.ReLU(),
            nn.Flatten(),
            nn.Linear(320, HIDDEN), nn.ReLU(), nn.Dropout(0.5),
            nn.Linear(HIDDEN, n_qubits),
        )  # fmt: skip

    def forward(self, images: Tensor) -> Tensor:
        """Return `pi * tanh` of the last layer."""
        return pi * torch.tanh(super().forward(images))


class StudentOptions(NamedTuple):
    """How a product student is built.

    Attributes:
        n_qubits: 3 or 4 as published; the sigmoid read-out tells `2 * 2**n_qubits` classes apart.
        circuit: the published one, one with trainable entangling layers, or none at all.
        read_out: the published one, or a trainable linear layer.
        depth: entangling layers.
        shots: runs of the circuit per image; None for exact probabilities.
        published_gradient: scale the circuit's gradients by sqrt(2), as published.
        seed: decides the shots drawn in evaluation.
    """

    n_qubits: int = 3
    circuit: CircuitKind = "product"
    read_out: ReadOut = "sigmoid"
    depth: int = 2
    shots: int | None = None
    published_gradient: bool = False
    seed: int = 0


class ProductStudent(nn.Sequential):
    """The student: images `(batch, 1, 28, 28)` in 0..1 to logits.

    With the sigmoid read-out there are `2 * 2**n_qubits` logits, of which the first are those of
    the classes, as published; with the linear one as many as classes.

    Raises:
        ModelError: the options do not go together or cannot tell so many classes apart.
    """

    def __init__(self, n_classes: int, options: StudentOptions | None = None) -> None:
        options = options or StudentOptions()
        _check(n_classes, options)
        n = options.n_qubits
        layers: list[nn.Module] = [AngleNet(n)]
        if options.circuit == "product":
            layers.append(
                ProductReadout(n, shots=options.shots, seed=options.seed,
                               published_gradient=options.published_gradient)
            )  # fmt: skip
        elif options.circuit == "entangling":
            layers.append(EntanglingReadout(n, options.depth))
        n_outcomes = n if options.circuit == "none" else 2**n
        layers.append(
            SigmoidReadOut() if options.read_out == "sigmoid" else nn.Linear(n_outcomes, n_classes)
        )
        super().__init__(*layers)


def _check(n_classes: int, options: StudentOptions) -> None:
    if not 1 <= options.n_qubits <= 12:
        raise ModelError(f"this student has 1 to 12 qubits, got {options.n_qubits}")
    for value, allowed in ((options.circuit, CircuitKind), (options.read_out, ReadOut)):
        if value not in get_args(allowed):
            raise ModelError(f"unknown part {value!r}; use one of {', '.join(get_args(allowed))}")
    if options.circuit != "product" and (options.shots or options.published_gradient):
        raise ModelError("shots and the published gradient belong to the product circuit")
    if options.circuit == "none" and options.read_out == "sigmoid":
        raise ModelError("without a circuit there are no probabilities; use read_out='linear'")
    n_logits = 2 * 2**options.n_qubits
    if options.read_out == "sigmoid" and n_classes > n_logits:
        raise ModelError(
            f"{options.n_qubits} qubits read out {n_logits} classes, there are {n_classes}; use "
            "more qubits or read_out='linear'"
        )


class ClassicalStudent(nn.Sequential):
    """The student's convolutions with one hidden dense layer: no circuit, no bottleneck.

    The hidden width is the largest that does not exceed the published student's parameters.
    """

    def __init__(self, n_classes: int, n_qubits: int = 3) -> None:
        twin = list(AngleNet(n_qubits))
        convolutions, dense = twin[:-4], twin[-4:]
        budget = sum(p.numel() for layer in dense for p in layer.parameters())
        hidden = max(1, (budget - n_classes) // (321 + n_classes))
        super().__init__(
            *convolutions,
            nn.Linear(320, hidden), nn.ReLU(), nn.Dropout(0.5),
            nn.Linear(hidden, n_classes),
        )  # fmt: skip


def sharpest_cross_entropy(n_qubits: int) -> float:
    """Return the least cross-entropy the sigmoid read-out can reach.

    All probability on one outcome; the label names that outcome.
    """
    outcomes = F.one_hot(torch.tensor([0]), 2**n_qubits).double()
    logits = SigmoidReadOut()(outcomes)
    return float(F.cross_entropy(logits, torch.tensor([0])))
