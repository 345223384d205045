"""The teachers of Hasan and Mahdy (arXiv 2311.13810, version 1): LeNet-5 and an adapted AlexNet.

Both take images `(batch, 1, 28, 28)` in 0..1 and give logits. The AlexNet keeps two of its three
pools and three of its five convolutions, so 28 pixels a side are enough; nearly all of its weights
lie in the dense layers.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from qgraft.errors import ConfigError

INPUT_SIDE = 28


def lenet5(n_classes: int) -> nn.Sequential:
    """Build LeNet-5 with tanh and average pooling: 44,086 parameters for 6 classes."""
    return nn.Sequential(
        nn.Conv2d(1, 6, 5), nn.Tanh(), nn.AvgPool2d(2),
        nn.Conv2d(6, 16, 5), nn.Tanh(), nn.AvgPool2d(2),
        nn.Flatten(),
        nn.Linear(256, 120), nn.Tanh(),
        nn.Linear(120, 84), nn.Tanh(),
        nn.Linear(84, n_classes),
    )  # fmt: skip


def alexnet28(n_classes: int) -> nn.Sequential:
    """Build the AlexNet adapted to 28 x 28 pixels: 94,655,686 parameters for 6 classes."""
    # ReLU is monotone, so it commutes with max pooling: after the pool it costs a quarter.
    return nn.Sequential(
        nn.Conv2d(1, 64, 3, padding=1), nn.MaxPool2d(2), nn.ReLU(),
        nn.Conv2d(64, 192, 3, padding=1), nn.MaxPool2d(2), nn.ReLU(),
        nn.Conv2d(192, 384, 3, padding=1), nn.ReLU(),
        nn.Flatten(),
        nn.Dropout(0.5), nn.Linear(384 * 7 * 7, 4096), nn.ReLU(),
        nn.Dropout(0.5), nn.Linear(4096, 4096), nn.ReLU(),
        nn.Linear(4096, n_classes),
    )  # fmt: skip


DIGIT_NETWORKS: dict[str, Callable[[int], nn.Sequential]] = {"lenet": lenet5, "alexnet": alexnet28}


def digit_network(name: str, n_classes: int) -> nn.Sequential:
    """Build one of `DIGIT_NETWORKS`.

    Raises:
        ConfigError: no such network.
    """
    if name not in DIGIT_NETWORKS:
        raise ConfigError(f"unknown network {name!r}; choose one of {', '.join(DIGIT_NETWORKS)}")
    return DIGIT_NETWORKS[name](n_classes)
