"""Students of the second version of arXiv 2311.13810: reduce, encode, rotate, read out.

An image is reduced to as many numbers as the encoding takes, enters the circuit, passes trainable
rotations and, unlike the drawn circuit, entangling gates where `entangled` is set; the <Z> of all
qubits go through a linear layer. The reduction is trained with the circuit (`fc`, published as the
best) or fixed: average or max pooling, a crop of the centre, principal components.
"""

from __future__ import annotations

from math import isqrt, pi
from typing import Literal, NamedTuple, get_args

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from qgraft.circuits.circuit import Circuit, Op, Param, each_z
from qgraft.circuits.embeddings import embed
from qgraft.errors import ModelError
from qgraft.simulate.backends import expvals

Encoding = Literal["amplitude", "angle", "multi-axis"]
Reduction = Literal["fc", "average", "max", "crop", "pca"]
AXES = ("RX", "RY", "RZ", "RX")  # of the multi-axis encoding, as drawn
TINY = 1e-6  # keeps an empty image from having no direction


class EncodedOptions(NamedTuple):
    """How an encoded student is built.

    Attributes:
        n_qubits: 4 or 8 as published.
        encoding: amplitudes, one RY angle per qubit, or RX RY RZ RX angles on every qubit.
        reduction: how an image becomes the numbers that are encoded.
        depth: layers of trainable RX RY RZ on every qubit.
        entangled: put a ring of CNOTs after every layer.
    """

    n_qubits: int = 4
    encoding: Encoding = "amplitude"
    reduction: Reduction = "fc"
    depth: int = 3
    entangled: bool = True


def student_circuit(
    encoding: Encoding, n_qubits: int, depth: int, *, entangled: bool = True
) -> Circuit:
    """Return encoding, `depth` layers of RX RY RZ (and a CNOT ring), and all <Z>.

    It has `3 n_qubits depth` weights.
    """
    entry = () if encoding == "amplitude" else _angle_ops(encoding, n_qubits)
    ops: list[Op] = list(entry)
    for layer in range(depth):
        for axis, gate in enumerate(("RX", "RY", "RZ")):
            first = n_qubits * (3 * layer + axis)
            ops += [Op(gate, (q,), (Param("weight", first + q),)) for q in range(n_qubits)]
        if entangled and n_qubits > 1:
            ring = n_qubits if n_qubits > 2 else 1
            ops += [Op("CNOT", (q, (q + 1) % n_qubits)) for q in range(ring)]
    return Circuit(n_qubits, tuple(ops), each_z(n_qubits), amplitudes=encoding == "amplitude")


def _angle_ops(encoding: Encoding, n_qubits: int) -> tuple[Op, ...]:
    if encoding == "angle":
        return embed("angle", n_qubits).ops
    return tuple(
        Op(gate, (q,), (Param("angle", k * n_qubits + q),))
        for k, gate in enumerate(AXES)
        for q in range(n_qubits)
    )


class EncodedStudent(nn.Module):
    """Images `(batch, channels, h, w)` in 0..1 or features `(batch, n)` to logits.

    Args:
        shape: shape of one input, without the batch.
        n_classes: number of logits.
        options: encoding, reduction and circuit.
        samples: training inputs `(n, *shape)` that principal components are computed from.

    Raises:
        ModelError: the options do not go together.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        n_classes: int,
        options: EncodedOptions | None = None,
        *,
        samples: Tensor | None = None,
    ) -> None:
        super().__init__()
        options = options or EncodedOptions()
        for value, allowed in ((options.encoding, Encoding), (options.reduction, Reduction)):
            if value not in get_args(allowed):
                raise ModelError(
                    f"unknown part {value!r}; use one of {', '.join(get_args(allowed))}"
                )
        self.options = options
        self.circuit = student_circuit(
            options.encoding, options.n_qubits, options.depth, entangled=options.entangled
        )
        self.reduce = reducer(options.reduction, shape, self.circuit.n_angles, samples)
        self.weights = nn.Parameter(torch.empty(self.circuit.n_weights).uniform_(-pi, pi))
        self.post = nn.Linear(options.n_qubits, n_classes)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return logits `(batch, n_classes)`."""
        numbers = self.reduce(inputs)
        if self.options.encoding == "amplitude":
            numbers = torch.cat([numbers[:, :1] + TINY, numbers[:, 1:]], dim=1)
        elif self.options.reduction in ("fc", "pca"):
            numbers = pi * torch.tanh(numbers)
        else:
            numbers = pi * numbers  # pixels in 0..1
        return self.post(expvals(self.circuit, numbers, self.weights))


def reducer(
    name: Reduction, shape: tuple[int, ...], width: int, samples: Tensor | None = None
) -> nn.Module:
    """Return a module from inputs `(batch, *shape)` to `(batch, width)`.

    Pooling and crop give an image of `height x width` numbers as square as the number allows.

    Raises:
        ModelError: a fixed reduction does not fit the inputs.
    """
    n = int(np.prod(shape))
    if name == "fc":
        return nn.Sequential(nn.Flatten(), nn.Linear(n, width))
    if name == "pca":
        return Components(samples, n, width)
    if len(shape) != 3 or shape[0] != 1:
        raise ModelError(f"reduction {name!r} takes grey images (1, h, w), not inputs {shape}")
    size = _nearly_square(width)
    if size[0] > shape[1] or size[1] > shape[2]:
        raise ModelError(f"images of {shape[1]} x {shape[2]} cannot be reduced to {width} numbers")
    if name == "crop":
        return nn.Sequential(CentreCrop(size), nn.Flatten())
    pool = nn.AdaptiveAvgPool2d if name == "average" else nn.AdaptiveMaxPool2d
    return nn.Sequential(pool(size), nn.Flatten())


def _nearly_square(width: int) -> tuple[int, int]:
    height = next(h for h in range(isqrt(width), 0, -1) if width % h == 0)
    return height, width // height


class CentreCrop(nn.Module):
    """Cut the centre out of images."""

    def __init__(self, size: tuple[int, int]) -> None:
        super().__init__()
        self.size = size

    def forward(self, images: Tensor) -> Tensor:
        """Return `(batch, channels, *size)`."""
        top, left = ((have - want) // 2 for have, want in zip(images.shape[2:], self.size,
                                                              strict=True))  # fmt: skip
        return images[:, :, top : top + self.size[0], left : left + self.size[1]]


class Components(nn.Module):
    """Project inputs onto the principal components of training inputs, at unit variance.

    Raises:
        ModelError: there are no training inputs, or fewer than components.
    """

    mean: Tensor
    axes: Tensor

    def __init__(self, samples: Tensor | None, n: int, width: int) -> None:
        super().__init__()
        have = 0 if samples is None else min(len(samples), n)
        if samples is None or have < width:
            raise ModelError(
                f"{width} principal components need as many training inputs of that many numbers, "
                f"there are {have}"
            )
        flat = samples.flatten(1).double()
        mean = flat.mean(0)
        values, vectors = torch.linalg.eigh((flat - mean).T @ (flat - mean) / len(flat))
        leading = torch.arange(n - 1, n - 1 - width, -1)
        axes = vectors[:, leading] / values[leading].clamp_min(1e-12).sqrt()
        signs = axes[axes.abs().argmax(0), torch.arange(width)].sign()  # the solver leaves it open
        self.register_buffer("mean", mean.float())
        self.register_buffer("axes", (axes * signs).float())

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the components `(batch, width)`."""
        return F.linear(inputs.flatten(1) - self.mean, self.axes.T)
