"""The networks a study can be asked for by name."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from torch import nn

from qgraft.errors import ConfigError
from qgraft.trunks.mobilenet import DepthFeatures, MobileNetV2
from qgraft.trunks.npz_weights import find_weights
from qgraft.trunks.pretrained import N_DENSE, surface_classifier
from qgraft.trunks.resnet import ResNet18
from qgraft.trunks.surface_cnn import SURFACE_CNNS, published_name, surface_cnn


class Trunk(NamedTuple):
    """What is known of a network before it is built.

    Attributes:
        title: its name in the tables.
        n_dense: dense layers a head can replace.
        image_cost: time for one training image, in training images of CM-2.
        weights: file name of the weights a pretrained network starts from.
    """

    title: str
    n_dense: int
    image_cost: float
    weights: str | None = None


_IMAGE_COST = {"cm1": 10.0, "cm2": 1.0, "cm3": 0.9}
TRUNKS: dict[str, Trunk] = {
    **{
        name: Trunk(published_name(name), spec.n_dense, _IMAGE_COST[name])
        for name, spec in SURFACE_CNNS.items()
    },
    "mobilenetv2": Trunk("MobileNetV2", N_DENSE, 0.7, "mobilenet_v2_imagenet_int8.npz"),
    "resnet18": Trunk("ResNet18", N_DENSE, 1.5, "resnet18_imagenet_conv1_to_layer3_bnfolded.npz"),
}

# Depth and side were chosen on folds of the development part of NEU-DET, protocol `clean`.
MOBILENET_DEPTHS, MOBILENET_SIDE = (6, 10, 13, 16), 96
RESNET_STAGES, RESNET_SIDE = (1, 2, 3), 96


def build_trunk(name: str, *, channels: int = 1, n_classes: int = 2) -> nn.Sequential:
    """Build a classifier of square images `(n, channels, h, h)` in 0..1 with fresh weights.

    Raises:
        ConfigError: no such network.
    """
    if name == "mobilenetv2":
        deep = DepthFeatures(MobileNetV2().features, MOBILENET_DEPTHS)
        return surface_classifier(deep, deep.n_features, n_classes, side=MOBILENET_SIDE)
    if name == "resnet18":
        textures = ResNet18(RESNET_STAGES)
        return surface_classifier(textures, textures.n_features, n_classes, side=RESNET_SIDE)
    if name not in TRUNKS:
        raise ConfigError(f"unknown network {name!r}; choose one of {', '.join(TRUNKS)}")
    return surface_cnn(name, channels=channels, n_classes=n_classes)


def require_weights(names: Iterable[str], given: str | None) -> None:
    """Check that all pretrained networks among `names` have their weights, before hours of work.

    Raises:
        WeightsError: a file is missing.
    """
    for trunk in map(TRUNKS.__getitem__, names):
        if trunk.weights:
            find_weights(trunk.title, trunk.weights, given)
