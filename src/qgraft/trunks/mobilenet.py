"""MobileNetV2 (Sandler et al., CVPR 2018) as a trunk, batch norm folded in.

Names of the layers are torchvision's (`features.1.conv.0.0`, `classifier.1`). Convolutions pad as
TensorFlow's "SAME" does, because the public weights come from there: with stride 2 one pixel
right and below only. Input images lie in 0..1, `(n, 3, h, w)`, best at 224 x 224; grey images are
repeated over the three channels.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from qgraft.errors import ModelError

INPUT_SIZE = 224
N_FEATURES = 1280
N_CLASSES = 1001  # ImageNet and, at index 0, background

# expansion, channels out, blocks, stride of the first block
_STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
# Channels after each layer of `features`: the first convolution, 17 blocks, the last convolution.
WIDTHS = (32, *(out for _, out, blocks, _ in _STAGES for _ in range(blocks)), N_FEATURES)


class _SameConv(nn.Conv2d):
    """A convolution with TensorFlow's "SAME" padding for kernels 1 and 3."""

    def forward(self, input: Tensor) -> Tensor:
        if self.kernel_size == (3, 3):
            low = 0 if self.stride == (2, 2) else 1
            input = F.pad(input, (low, 1, low, 1))
        return super().forward(input)


def _conv(width: int, out: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    return nn.Sequential(_SameConv(width, out, kernel, stride, groups=groups), nn.ReLU6())


class _InvertedResidual(nn.Module):
    """Widen, filter each channel alone, narrow; added to the input where shapes allow."""

    def __init__(self, width: int, out: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = width * expansion
        layers: list[nn.Module] = [_conv(width, hidden, 1)] if expansion != 1 else []
        layers += [_conv(hidden, hidden, 3, stride, hidden), _SameConv(hidden, out, 1)]
        self.conv = nn.Sequential(*layers)
        self.is_residual = stride == 1 and width == out

    def forward(self, maps: Tensor) -> Tensor:
        return maps + self.conv(maps) if self.is_residual else self.conv(maps)


class MobileNetV2(nn.Module):
    """The whole network; `features` gives the maps `(n, 1280, h / 32, w / 32)`."""

    def __init__(self, n_classes: int = N_CLASSES) -> None:
        super().__init__()
        layers: list[nn.Module] = [_conv(3, 32, 3, 2)]
        width = 32
        for expansion, out, blocks, first_stride in _STAGES:
            for block in range(blocks):
                stride = first_stride if block == 0 else 1
                layers.append(_InvertedResidual(width, out, stride, expansion))
                width = out
        layers.append(_conv(width, N_FEATURES, 1))
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(N_FEATURES, n_classes))

    def forward(self, images: Tensor) -> Tensor:
        """Map images `(n, 1 or 3, h, w)` in 0..1 to logits `(n, n_classes)`."""
        return self.classifier(self.features(_signed(images)).mean((2, 3)))


class DepthFeatures(nn.Module):
    """Channel means after several layers of MobileNetV2, side by side; later layers are dropped.

    Args:
        features: the `features` of a `MobileNetV2`.
        depths: numbers of the layers whose maps are averaged, 0 to 18, such as `(6, 13, 18)`.

    Raises:
        ModelError: no such layer.
    """

    def __init__(self, features: nn.Sequential, depths: Sequence[int]) -> None:
        super().__init__()
        if not depths or len(set(depths)) < len(depths) or set(depths) - set(range(len(WIDTHS))):
            raise ModelError(
                f"depths {tuple(depths)}: give different layers from 0 to {len(WIDTHS) - 1}"
            )
        self.features = nn.Sequential(*list(features)[: max(depths) + 1])
        self.depths = tuple(sorted(depths))
        self.n_features = sum(WIDTHS[depth] for depth in depths)

    def forward(self, images: Tensor) -> Tensor:
        """Map images `(n, 1 or 3, h, w)` in 0..1 to `(n, n_features)`, shallow layers first."""
        maps, pooled = _signed(images), []
        for number, layer in enumerate(self.features):
            maps = layer(maps)
            if number in self.depths:
                pooled.append(maps.mean((2, 3)))
        return torch.cat(pooled, 1)

    def extra_repr(self) -> str:
        """Describe what no weight tells."""
        return f"depths={self.depths}"


def _signed(images: Tensor) -> Tensor:
    """Map 0..1 to the -1..1 the weights were trained with, grey to three channels."""
    return (images * 2 - 1).expand(-1, 3, -1, -1).contiguous(memory_format=torch.channels_last)
