"""Scores against their definitions, and the blur control against made-up blur."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qgraft.data.imageset import ImageSet
from qgraft.evaluation.metrics import score
from qgraft.evaluation.shortcuts import N_BINS, radial_spectrum, spectrum_control


def by_hand(p, labels):
    """Return F1, precision, recall, accuracy and AUC from counts and pairs."""
    predicted = p > 0.5
    tp = int((predicted & (labels == 1)).sum())
    fp = int((predicted & (labels == 0)).sum())
    fn = int((~predicted & (labels == 1)).sum())
    pairs = p[labels == 1][:, None] - p[labels == 0][None, :]
    auc = ((pairs > 0) + 0.5 * (pairs == 0)).mean() if pairs.size else None
    return {
        "f1": 2 * tp / (2 * tp + fp + fn) if tp else 0.0,
        "precision": tp / (tp + fp) if tp else 0.0,
        "recall": tp / (tp + fn) if tp else 0.0,
        "accuracy": float((predicted == (labels == 1)).mean()),
        "auc": auc,
        "confusion": [[len(labels) - tp - fp - fn, fp], [fn, tp]],
    }


@settings(max_examples=80, deadline=None)
@given(st.integers(1, 40), st.integers(0, 2**32), st.booleans())
def test_two_class_scores_by_hand(n, seed, ties):
    rng = np.random.default_rng(seed)
    p = rng.random(n)
    p = np.round(p, 1) * 0.98 if ties else p
    labels = rng.integers(0, 2, n)
    ours = score(np.stack([1 - p, p], 1), labels)
    expected = by_hand(p, labels)
    assert ours["confusion"] == expected.pop("confusion")
    assert {key: ours[key] for key in expected} == pytest.approx(expected, abs=1e-12)


def test_three_classes_are_averaged_without_weights():
    labels = np.array([0, 0, 1, 2, 2, 2])
    scores = score(np.eye(3)[[0, 1, 1, 2, 2, 0]], labels)
    f1 = [2 * 1 / (2 + 1 + 1), 2 * 1 / (2 + 1 + 0), 2 * 2 / (4 + 0 + 1)]
    assert scores["f1"] == pytest.approx(np.mean(f1))
    assert scores["confusion"] == [[1, 1, 0], [0, 1, 0], [1, 0, 2]]
    assert scores["accuracy"] == pytest.approx(4 / 6)


def test_a_wave_lands_in_the_ring_of_its_frequency():
    x = np.arange(96)
    for cycles in (6, 18, 30, 42):
        wave = np.cos(2 * np.pi * cycles / 96 * x)[None, :] * np.ones((96, 1))
        image = (127 + 100 * wave).astype(np.uint8)[None]
        assert radial_spectrum(image)[0].argmax() == int(cycles / 96 / 0.5 * N_BINS)


def test_the_control_finds_blur_and_only_blur():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 255, (80, 32, 32)).astype(np.uint8)
    labels = np.arange(80) % 2
    plain = ImageSet(images, labels, np.arange(80), tuple(map(str, range(80))))
    blurred = images.copy()
    blurred[labels == 0] = (
        blurred[labels == 0]
        .reshape(40, 16, 2, 16, 2)
        .mean((2, 4))
        .astype(np.uint8)
        .repeat(2, 1)
        .repeat(2, 2)
    )
    shortcut = ImageSet(blurred, labels, np.arange(80), plain.names)
    assert spectrum_control(shortcut)["auc"] == pytest.approx(1.0)
    assert 0.25 < float(spectrum_control(plain)["auc"]) < 0.75
