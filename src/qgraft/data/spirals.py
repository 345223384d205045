"""Points of two classes in the plane: the toy sets of arXiv 1912.08278, example 1.

Drawn with NumPy's legacy generator and split by scikit-learn, as published, so that the default
seeds give the published points.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from qgraft.errors import ConfigError

N_PER_CLASS = 2200
N_TRAINING, N_TEST = 2000, 200  # of 4,200 points left for training the first 2,000 are used
NOISE = 0.7
SHAPES = ("spirals-1.52", "spirals-2.0", "square", "moons")


class Points(NamedTuple):
    """Standardised points `(n, 2)` and labels `(n,)` of 0 and 1, of two parts."""

    training: np.ndarray
    training_labels: np.ndarray
    test: np.ndarray
    test_labels: np.ndarray


def draw_points(shape: str, *, seed: int = 21, split_seed: int = 42) -> Points:
    """Draw one of `SHAPES`; the number after `spirals-` is that of the turns.

    The square has uniform points, those within a central square of half the area being class 1; the
    moons are two half circles with normal noise 0.1.

    Raises:
        ConfigError: there is no such shape.
    """
    from sklearn.model_selection import train_test_split

    rng = np.random.RandomState(seed)
    if shape.startswith("spirals-") and shape in SHAPES:
        points, labels = two_spirals(rng, N_PER_CLASS, turns=float(shape.removeprefix("spirals-")))
    elif shape == "square":
        points, labels = _square(rng, 2 * N_PER_CLASS)
    elif shape == "moons":
        points, labels = _moons(rng, N_PER_CLASS)
    else:
        raise ConfigError(f"unknown shape {shape!r}; use one of {', '.join(SHAPES)}")
    points = (points - points.mean(axis=0)) / points.std(axis=0)
    parts = train_test_split(points, labels, test_size=N_TEST, random_state=split_seed)
    x_train, x_test, y_train, y_test = (np.asarray(part) for part in parts)
    return Points(x_train[:N_TRAINING], y_train[:N_TRAINING], x_test, y_test)


def two_spirals(
    rng: np.random.RandomState, n: int, *, turns: float, noise: float = NOISE
) -> tuple[np.ndarray, np.ndarray]:
    """Return `n` points of each of two spirals, the second one the first one negated."""
    t = np.sqrt(rng.rand(n)) * turns * 2 * np.pi
    x = -np.cos(t) * t + rng.rand(n) * noise
    y = np.sin(t) * t + rng.rand(n) * noise
    first = np.stack([x, y], axis=1)
    return np.concatenate([first, -first]), np.repeat([0, 1], n)


def _square(rng: np.random.RandomState, n: int) -> tuple[np.ndarray, np.ndarray]:
    points = rng.uniform(-1, 1, (n, 2))
    return points, (np.abs(points).max(axis=1) < 0.5**0.5).astype(np.int64)


def _moons(rng: np.random.RandomState, n: int) -> tuple[np.ndarray, np.ndarray]:
    t = np.linspace(0, np.pi, n)
    upper = np.stack([np.cos(t), np.sin(t)], axis=1)
    lower = np.stack([1 - np.cos(t), 0.5 - np.sin(t)], axis=1)
    points = np.concatenate([upper, lower]) + rng.normal(0, 0.1, (2 * n, 2))
    return points, np.repeat([0, 1], n)
