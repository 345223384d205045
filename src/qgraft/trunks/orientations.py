"""The eight orientations of a square: steel has no up.

Training sees every image in one random orientation; afterwards the features of all eight are
averaged, so that turning or mirroring an image changes nothing. The draws come from torch's
generator, which the training loop sets as a pure function of (seed, epoch), like dropout masks.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from qgraft.errors import ModelError

N_ORIENTATIONS = 8


def oriented(images: Tensor, orientation: int) -> Tensor:
    """Return images `(..., h, w)` in an orientation: 0 to 3 quarter turns, mirrored from 4 on."""
    turned = torch.rot90(images, orientation % 4, (-2, -1))
    return turned.flip(-1) if orientation >= 4 else turned


def augmented(images: Tensor, orientations: Tensor) -> Tensor:
    """Return square images `(n, c, h, h)`, each in its own orientation, int64 `(n,)`."""
    result = torch.empty_like(images)
    for orientation in range(N_ORIENTATIONS):
        members = orientations == orientation
        result[members] = oriented(images[members], orientation)
    return result


class OrientationMean(nn.Module):
    """A network on square images, made indifferent to how they lie.

    In training mode every image takes one random orientation; in evaluation mode the outputs of
    all eight are averaged.

    Args:
        network: images `(n, c, h, h)` to features `(n, n_features)`.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        """Map images `(n, c, h, h)` to features `(n, n_features)`."""
        if images.shape[-1] != images.shape[-2]:
            raise ModelError(f"orientations need square images, got {tuple(images.shape)}")
        if self.training:
            return self.network(augmented(images, torch.randint(N_ORIENTATIONS, images.shape[:1])))
        outputs = [self.network(oriented(images, k)) for k in range(N_ORIENTATIONS)]
        return torch.stack(outputs).mean(0)
