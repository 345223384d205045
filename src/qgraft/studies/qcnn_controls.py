"""What a quantum convolutional network is compared with: small classical heads on its features.

`1D-64` and `2D-76` are the classical heads of arXiv 2208.14708, published at learning rate 0.001
while the circuits learn at 0.01. The others are ours: linear heads with the circuit's own budget,
one of them with as few parameters, and a logistic regression fitted to the end.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from torch import nn

from qgraft.studies.qcnn_cells import PairTask

PUBLISHED_RATE = 1e-3
PUBLISHED_FIRST = 10_000  # training images the published classical heads see
GROUP = 8  # neighbouring features averaged by the small linear head


class Control(NamedTuple):
    """A classical head: what it is, how wide its input must be, and how to build it."""

    name: str
    says: str
    width: int | None
    build: Callable[[int], nn.Module]
    is_published: bool = False


def _as_in_keras(head: nn.Sequential) -> nn.Sequential:
    """Draw initial weights as Keras does, in which these heads were published."""
    for layer in head:
        if isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Linear):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)  # pyright: ignore[reportArgumentType]
    return head


def conv_1d(n_features: int = 256) -> nn.Module:
    """Return the 64-parameter head: one filter of width 5 and stride 3, pooled by 3."""
    return _as_in_keras(nn.Sequential(
        nn.Unflatten(1, (1, n_features)), nn.Conv1d(1, 1, 5, 3), nn.ReLU(), nn.MaxPool1d(3),
        nn.Flatten(), nn.Linear(((n_features - 5) // 3 + 1) // 3, 2),
    ))  # fmt: skip


def conv_2d(n_features: int = 256) -> nn.Module:
    """Return the 76-parameter head on the features as a 16 x 16 image."""
    side = int(n_features**0.5)
    return _as_in_keras(nn.Sequential(
        nn.Unflatten(1, (1, side, side)),
        nn.Conv2d(1, 2, 3), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(2, 2, 3), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(8, 2),
    ))  # fmt: skip


def linear(n_features: int) -> nn.Module:
    """Return a linear classifier."""
    return nn.Linear(n_features, 2)


def grouped(n_features: int) -> nn.Module:
    """Return a linear classifier on means of eight neighbouring features."""
    return nn.Sequential(
        nn.Unflatten(1, (1, n_features)), nn.AvgPool1d(GROUP), nn.Flatten(),
        nn.Linear(n_features // GROUP, 2),
    )  # fmt: skip


CONTROLS = (
    Control("1D-64", "one-dimensional convolution", 256, conv_1d, True),
    Control("2D-76", "two-dimensional convolutions", 256, conv_2d, True),
    Control("linear", "linear, all features", None, linear),
    Control("grouped-66", "linear, means of 8 features", 256, grouped),
)


def controls_for(n_features: int) -> tuple[Control, ...]:
    """Return the controls that take so many features."""
    return tuple(c for c in CONTROLS if c.width in (None, n_features))


def logistic_regression(pair: PairTask) -> np.ndarray:
    """Return which test images a logistic regression on all training samples calls right."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=1000))
    model.fit(pair.training.inputs.numpy(), pair.training.labels.numpy())
    return model.predict(pair.test.inputs.numpy()) == pair.test.labels.numpy()
