"""The networks a study can be asked for by name."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

from torch import nn

from qgraft.errors import ConfigError
from qgraft.trunks.mobilenet import DepthFeatures, MobileNetV2
from qgraft.trunks.npz_weights import find_weights, load_npz
from qgraft.trunks.orientations import OrientationMean
from qgraft.trunks.pretrained import FEATURES, N_DENSE, SideBySide, surface_classifier
from qgraft.trunks.resnet import ResNet18
from qgraft.trunks.surface_cnn import SURFACE_CNNS, published_name, surface_cnn


class Trunk(NamedTuple):
    """What is known of a network before it is built.

    Attributes:
        title: its name in the tables.
        n_dense: dense layers a head can replace.
        image_cost: time for one training image, in training images of CM-2.
        weights: file names of the weights a pretrained network starts from.
    """

    title: str
    n_dense: int
    image_cost: float
    weights: tuple[str, ...] = ()


MOBILENET_FILE = "mobilenet_v2_imagenet_int8.npz"
RESNET_FILE = "resnet18_imagenet_conv1_to_layer3_bnfolded.npz"
_IMAGE_COST = {"cm1": 10.0, "cm2": 1.0, "cm3": 0.9}
TRUNKS: dict[str, Trunk] = {
    **{
        name: Trunk(published_name(name), spec.n_dense, _IMAGE_COST[name])
        for name, spec in SURFACE_CNNS.items()
    },
    "mobilenetv2": Trunk("MobileNetV2", N_DENSE, 0.7, (MOBILENET_FILE,)),
    "resnet18": Trunk("ResNet18", N_DENSE, 1.5, (RESNET_FILE,)),
    "mobilenetv2+resnet18": Trunk(
        "MobileNetV2+ResNet18", N_DENSE, 2.2, (MOBILENET_FILE, RESNET_FILE)
    ),
}

# Depth and side were chosen on folds of the development part of NEU-DET, protocol `clean`.
MOBILENET_DEPTHS = (6, 10, 13, 16)
RESNET_STAGES = (1, 2, 3)
SIDE = 96
_PRETRAINED: dict[str, Callable[[], DepthFeatures | ResNet18]] = {
    "mobilenetv2": lambda: DepthFeatures(MobileNetV2().features, MOBILENET_DEPTHS),
    "resnet18": lambda: ResNet18(RESNET_STAGES),
}


def build_trunk(name: str, *, channels: int = 1, n_classes: int = 2) -> nn.Sequential:
    """Build a classifier of square images `(n, channels, h, h)` in 0..1 with fresh weights.

    Raises:
        ConfigError: no such network.
    """
    if name not in TRUNKS:
        raise ConfigError(f"unknown network {name!r}; choose one of {', '.join(TRUNKS)}")
    if not TRUNKS[name].weights:
        return surface_cnn(name, channels=channels, n_classes=n_classes)
    networks = [_PRETRAINED[part]() for part in name.split("+")]
    features = SideBySide(*networks) if len(networks) > 1 else networks[0]
    return surface_classifier(features, features.n_features, n_classes, side=SIDE)


def load_pretrained(name: str, model: nn.Sequential, given: str | None) -> None:
    """Put the weights that a pretrained network starts from into `model`.

    Args:
        name: which network.
        model: of `build_trunk`.
        given: a file or a folder that holds it; by default `$QGRAFT_DATA/weights`.

    Raises:
        WeightsError: they are missing or damaged, or those of another network.
    """
    known, oriented = TRUNKS[name], model[FEATURES]
    assert isinstance(oriented, OrientationMean)
    pair = oriented.network
    networks = pair.networks if isinstance(pair, SideBySide) else [pair]
    for network, file in zip(networks, known.weights, strict=True):
        load_npz(network, find_weights(known.title, file, given), what=known.title)


def require_weights(names: Iterable[str], given: str | None) -> None:
    """Check that all pretrained networks among `names` have their weights, before hours of work.

    Raises:
        WeightsError: a file is missing.
    """
    for trunk in map(TRUNKS.__getitem__, names):
        for file in trunk.weights:
            find_weights(trunk.title, file, given)
