"""A network that learned from everyday photographs, made into a classifier of surfaces.

Resize, features averaged over the eight orientations, standardised, and a stack of dense layers
like those of the published networks: a head replaces some of them.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from qgraft.trunks.orientations import OrientationMean
from qgraft.trunks.surface_cnn import Standardise

HIDDEN, DROPOUT = (256, 64), 0.5
FEATURES, STANDARDISE = 1, 2  # places of these layers in `surface_classifier`
N_DENSE = len(HIDDEN) + 1


class Resize(nn.Module):
    """Resize images to one side, averaging over pixels that fall together."""

    def __init__(self, side: int) -> None:
        super().__init__()
        self.side = side

    def forward(self, images: Tensor) -> Tensor:
        """Map images `(n, c, h, w)` to `(n, c, side, side)`."""
        return F.interpolate(images, (self.side, self.side), mode="bilinear", antialias=True)

    def extra_repr(self) -> str:
        """Describe what no weight tells."""
        return f"side={self.side}"


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
