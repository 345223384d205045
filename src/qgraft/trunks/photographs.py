"""Networks that learned from everyday photographs, as trunks for pictures of things.

Unlike `pretrained`, whose surfaces have no up, a picture may be mirrored but not turned.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from qgraft.trunks.mobilenet import WIDTHS, DepthFeatures, MobileNetV2
from qgraft.trunks.npz_weights import find_weights, load_npz
from qgraft.trunks.pretrained import Resize
from qgraft.trunks.registry import TRUNKS
from qgraft.trunks.resnet import WIDTHS as STAGE_WIDTHS
from qgraft.trunks.resnet import ResNet18, load_torchvision

MOBILENET_DEPTHS = (13, 16, 17, 18)
RESNET_STAGES = (1, 2, 3)


class PhotographTrunk(NamedTuple):
    """A frozen network and where the features of each of its depths lie.

    Attributes:
        network: images `(n, 3, h, w)` in 0..1 to features `(n, n_features)`.
        widths: number of features of every depth, shallow first, by name.
    """

    network: nn.Module
    widths: dict[str, int]

    def for_images(self, images: Tensor) -> nn.Module:
        """Return the network for images `(n, c, h, k h)`: with k views it is the mean over them."""
        is_square = images.shape[-1] == images.shape[-2]
        return self.network if is_square else ViewMean(self.network).eval()

    def columns(self, depths: tuple[str, ...]) -> Tensor:
        """Return the places of the features of some depths."""
        ends = torch.tensor(list(self.widths.values())).cumsum(0)
        spans = {
            name: torch.arange(int(end) - width, int(end))
            for (name, width), end in zip(self.widths.items(), ends, strict=True)
        }
        return torch.cat([spans[depth] for depth in depths])


class MirrorMean(nn.Module):
    """A network whose outputs for an image and its mirror image are averaged."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        """Map images `(n, c, h, w)` to features `(n, n_features)`."""
        return (self.network(images) + self.network(images.flip(-1))) / 2


class ViewMean(nn.Module):
    """A network whose outputs for square views side by side are averaged."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        """Map images `(n, c, h, k h)` to features `(n, n_features)`."""
        views = images.split(images.shape[-2], dim=-1)
        return torch.stack([self.network(view) for view in views]).mean(0)


def photograph_trunk(name: str, weights: str | None, *, side: int, mirror: bool) -> PhotographTrunk:
    """Build `mobilenetv2` or `resnet18` with its weights, frozen and in evaluation mode.

    Args:
        name: a network of `trunks.registry` that is pretrained.
        weights: its file or a folder that holds it; by default `$QGRAFT_DATA/weights`. A
            safetensors file holds torchvision's whole `resnet18` (see `qgraft convert`).
        side: images are resized to this side.
        mirror: average over the image and its mirror image.

    Raises:
        WeightsError: the weights are missing or damaged.
    """
    known = TRUNKS[name]
    path: Path = find_weights(known.title, known.weights[0], weights)
    if name == "mobilenetv2":
        network: nn.Module = DepthFeatures(MobileNetV2().features, MOBILENET_DEPTHS)
        load_npz(network, path, what=known.title)
        widths = {f"layer {depth}": WIDTHS[depth] for depth in MOBILENET_DEPTHS}
    else:
        is_whole = path.suffix == ".safetensors"
        stages = (*RESNET_STAGES, 4) if is_whole else RESNET_STAGES
        network = ResNet18(stages)
        if is_whole:
            load_torchvision(network, path)
        else:
            load_npz(network, path, what=known.title)
        widths = {f"stage {stage}": STAGE_WIDTHS[stage] for stage in stages}
    network = MirrorMean(network) if mirror else network
    network = nn.Sequential(Resize(side, sharp=True), network).requires_grad_(False).eval()
    return PhotographTrunk(network, widths)
