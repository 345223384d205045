"""Each fault is planted and found; clean data gives no finding."""

from dataclasses import replace

import numpy as np
import pytest

from qgraft.data.imageset import Box, ImageSet, Photographs
from qgraft.data.splits import clean_splits, paper_splits
from qgraft.evaluation.audit import audit, foreign_boxes


def clean_set(n=120, seed=0):
    """Return noise images with a bright square (anomalous) or without, nothing else to learn."""
    rng = np.random.default_rng(seed)
    images = rng.integers(60, 190, (n, 48, 48)).astype(np.uint8)
    labels = np.arange(n) % 2
    for image, label in zip(images, labels, strict=True):
        if label:
            y, x = rng.integers(0, 36, 2)
            patch = image[y : y + 8, x : x + 8]
            patch[...] = patch[::-1]
    return ImageSet(images, labels, np.arange(n), tuple(f"part_{i}" for i in range(n)))


def kinds(images, splits=None):
    return {finding["kind"] for finding in audit(images, splits)}


def splits_of(images):
    return clean_splits(images, n_folds=3, seed=0)


def test_clean_data_gives_no_finding():
    images = clean_set()
    assert audit(images, splits_of(images)) == []


def test_equal_pixels_on_both_sides():
    images = clean_set()
    splits = splits_of(images)
    pixels = images.images.copy()
    pixels[splits.holdout[3]] = pixels[splits.train[5]]
    (finding,) = audit(replace(images, images=pixels), splits)
    assert finding["kind"] == "shared_images"
    assert finding["severity"] == "high"
    assert finding["where"] == [images.names[splits.holdout[3]]]
    assert finding["message"].startswith("1 hold-out images have the pixels of a development")


def test_nearly_equal_pixels_on_both_sides():
    images = clean_set()
    splits = splits_of(images)
    pixels = images.images.copy()
    twin = np.clip(pixels[splits.train[5]].astype(int) + 3, 0, 255).astype(np.uint8)
    pixels[splits.holdout[3]] = twin
    (finding,) = audit(replace(images, images=pixels), splits)
    assert finding["kind"] == "near_duplicates"
    pair = f"{images.names[splits.holdout[3]]} ~ {images.names[splits.train[5]]}"
    assert finding["where"] == [pair]


def test_a_photograph_on_both_sides():
    images = clean_set()
    splits = splits_of(images)
    groups = images.groups.copy()
    groups[splits.holdout[0]] = groups[splits.train[0]]
    assert kinds(replace(images, groups=groups), splits) == {"shared_photographs"}


def test_images_seen_by_the_trunk():
    images = clean_set()
    findings = audit(images, paper_splits(images, n_folds=3, seed=0))
    assert [finding["kind"] for finding in findings] == ["seen_by_trunk"]
    assert "80 % of the images" in findings[0]["message"]


def test_imbalance():
    images = clean_set(160)
    kept = np.flatnonzero((images.labels == 0) | (np.arange(160) < 40))
    assert kinds(images.subset(kept)) == {"class_balance"}


@pytest.mark.parametrize(
    ("spoil", "kind"),
    [
        (lambda image: (image * 0.7).astype(np.uint8), "shortcut_brightness"),
        (
            lambda image: image.reshape(24, 2, 24, 2).mean((1, 3)).repeat(2, 0).repeat(2, 1),
            "shortcut_blur",
        ),
    ],
)
def test_shortcuts(spoil, kind):
    images = clean_set()
    pixels = np.stack(
        [spoil(i) if y == 0 else i for i, y in zip(images.images, images.labels, strict=True)]
    ).astype(np.uint8)
    assert kind in kinds(replace(images, images=pixels))


def test_crop_side_as_a_shortcut():
    images = clean_set()
    names = tuple(f"photo_{i}#0,0,{40 + 30 * y}" for i, y in enumerate(images.labels))
    assert kinds(replace(images, names=names)) == {"shortcut_size"}


def test_wrong_labels_are_candidates():
    rng = np.random.default_rng(0)
    labels = np.arange(120) % 2
    ramp = np.linspace(-40, 40, 48)
    images = rng.normal(120, 10, (120, 48, 48)) + np.where(labels, 1, -1)[:, None, None] * ramp
    spoiled = labels.copy()
    spoiled[[7, 30]] = 1 - spoiled[[7, 30]]
    data = ImageSet(
        images.clip(0, 255).astype(np.uint8), spoiled, np.arange(120), tuple(map(str, range(120)))
    )
    found = {finding["kind"]: finding for finding in audit(data)}
    assert set(found["label_noise"]["where"]) == {"7", "30"}
    clean = replace(data, labels=labels)
    assert "label_noise" not in kinds(clean)


def test_foreign_boxes():
    image = np.zeros((9, 9), np.uint8)
    own, other = Box(0, 0, 3, 3, "scratches"), Box(0, 0, 3, 3, "inclusion")
    photographs = Photographs(
        [image, image], ("scratches",) * 2, ((own,), (own, other)), ("a_1", "a_2")
    )
    (finding,) = foreign_boxes(photographs)
    assert finding["where"] == ["a_2"]
    assert not list(foreign_boxes(replace(photographs, boxes=((own,), (own,)))))
