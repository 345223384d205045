"""A network that learned from everyday photographs, made into a classifier of surfaces.

Resize, features averaged over the eight orientations, standardised, and a stack of dense layers
like those of the published networks: a head replaces some of them.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from qgraft.trunks.mobilenet import DepthFeatures
from qgraft.trunks.orientations import OrientationMean
from qgraft.trunks.resnet import ResNet18
from qgraft.trunks.surface_cnn import Standardise

HIDDEN, DROPOUT = (256, 64), 0.5
FEATURES, STANDARDISE = 1, 2  # places of these layers in `surface_classifier`
N_DENSE = len(HIDDEN) + 1


class Resize(nn.Module):
    """Resize images to one side, averaging over pixels that fall together.

    With `sharp` what lies between pixels comes from a cubic curve instead of a straight line.
    """

    def __init__(self, side: int, *, sharp: bool = False) -> None:
        super().__init__()
        self.side, self.sharp = side, sharp

    def forward(self, images: Tensor) -> Tensor:
        """Map images `(n, c, h, w)` in 0..1 to `(n, c, side, side)`."""
        size = self.side, self.side
        if self.sharp:
            return F.interpolate(images, size, mode="bicubic", antialias=True).clamp(0, 1)
        return F.interpolate(images, size, mode="bilinear", antialias=True)

    def extra_repr(self) -> str:
        """Describe what no weight tells."""
        return f"side={self.side}, sharp" if self.sharp else f"side={self.side}"


class SideBySide(nn.Module):
    """Several networks on the same images, their features side by side.

    Args:
        networks: each maps images `(n, c, h, w)` to features and tells its `n_features`.
    """

    def __init__(self, *networks: DepthFeatures | ResNet18) -> None:
        super().__init__()
        self.networks = nn.ModuleList(networks)
        self.n_features = sum(network.n_features for network in networks)

    def forward(self, images: Tensor) -> Tensor:
        """Map images `(n, c, h, w)` to features `(n, n_features)`."""
        return torch.cat([network(images) for network in self.networks], 1)


def surface_classifier(
    features: nn.Module, n_features: int, n_classes: int = 2, *, side: int
) -> nn.Sequential:
    """Build a classifier of square images `(n, 1 or 3, h, h)` in 0..1 that has no up.

    Args:
        features: images `(n, 1 or 3, side, side)` to features `(n, n_features)`.
        n_features: width of the features.
        n_classes: number of logits.
        side: images are resized to this side.
    """
    layers: list[nn.Module] = [
        Resize(side),
        OrientationMean(features),
        Standardise(torch.zeros(n_features), torch.ones(n_features)),
    ]
    width = n_features
    for out in HIDDEN:
        layers += [nn.Linear(width, out), nn.ReLU(), nn.Dropout(DROPOUT)]
        width = out
    return nn.Sequential(*layers, nn.Linear(width, n_classes))
