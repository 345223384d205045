"""The three surface-inspection networks CM-1, CM-2 and CM-3 (arXiv 2409.00228, Table I).

Each is a stack of `Conv(in, out, kernel, stride) [Pool(kernel, stride)]` without padding and a
stack of dense layers. The third convolution of CM-1 is printed with kernel 16 and stride 2,
which does not fit its 25 x 25 input; kernel 2 and stride 1 give exactly the published
1,076,338 parameters, so that is what is built here.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import nn

from qgraft.errors import ConfigError

INPUT_SIZE = 200


class _Conv(NamedTuple):
    out: int
    kernel: int
    stride: int
    pool: tuple[int, int] | None


class _Spec(NamedTuple):
    convs: tuple[_Conv, ...]
    n_flat: int
    dense: tuple[tuple[int, float], ...]  # hidden layers: (width, dropout after it)

    @property
    def n_dense(self) -> int:
        """Return the number of dense layers with the output layer."""
        return len(self.dense) + 1


_DENSE = ((128, 0.5), (64, 0.25), (16, 0.0))

SURFACE_CNNS: dict[str, _Spec] = {
    "cm1": _Spec(
        (
            _Conv(32, 32, 2, (8, 1)),
            _Conv(64, 16, 2, (8, 1)),
            _Conv(128, 2, 1, (8, 1)),
            _Conv(128, 2, 1, (8, 2)),
        ),
        3200,
        ((128, 0.5), (64, 0.25), (32, 0.12), (16, 0.0)),
    ),
    "cm2": _Spec(
        (_Conv(32, 4, 2, (4, 2)), _Conv(64, 8, 2, (2, 2)), _Conv(128, 4, 2, None)), 2048, _DENSE
    ),
    "cm3": _Spec(
        (_Conv(32, 8, 2, (4, 2)), _Conv(64, 4, 2, (4, 1)), _Conv(128, 2, 1, (4, 2))), 8192, _DENSE
    ),
}


class Standardise(nn.Module):
    """Shift and scale images or features to zero mean and unit variance of the training part.

    Mean and deviation, two numbers or one of each for every feature, are buffers: they travel with
    the weights and count as no parameter.
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, mean: float | torch.Tensor = 0.5, std: float | torch.Tensor = 0.25) -> None:
        super().__init__()
        for name, value in (("mean", mean), ("std", std)):
            # A single number is kept in full, whether it comes from Python or from NumPy.
            is_many = isinstance(value, torch.Tensor)
            buffer = value if is_many else torch.tensor(value, dtype=torch.float64)
            self.register_buffer(name, buffer)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Map images in 0..1, or features, to standardised ones of the same shape."""
        return (images - self.mean) / self.std


def published_name(name: str) -> str:
    """Return a network's name in the paper: `cm1` -> `CM-1`."""
    return f"CM-{name.removeprefix('cm')}"


def surface_cnn(name: str, *, channels: int = 1, n_classes: int = 2) -> nn.Sequential:
    """Build CM-1, CM-2 or CM-3, from images `(batch, channels, 200, 200)` in 0..1 to logits.

    Args:
        name: `"cm1"`, `"cm2"` or `"cm3"`.
        channels: 1 for grey (as published) or 3.
        n_classes: width of the last layer; 2 as published.

    Raises:
        ConfigError: no such network.
    """
    if name not in SURFACE_CNNS:
        raise ConfigError(f"unknown network {name!r}; choose one of {', '.join(SURFACE_CNNS)}")
    spec = SURFACE_CNNS[name]
    layers: list[nn.Module] = [Standardise()]
    width = channels
    for conv in spec.convs:
        layers.append(nn.Conv2d(width, conv.out, conv.kernel, conv.stride))
        if conv.pool:
            layers.append(nn.MaxPool2d(*conv.pool))
        # ReLU is monotone, so it commutes with max pooling: after the pool it costs a fraction.
        layers.append(nn.ReLU())
        width = conv.out
    layers.append(nn.Flatten())
    width = spec.n_flat
    for out, dropout in spec.dense:
        layers += [nn.Linear(width, out), nn.ReLU()]
        if dropout:
            layers.append(nn.Dropout(dropout))
        width = out
    layers.append(nn.Linear(width, n_classes))
    return nn.Sequential(*layers)
