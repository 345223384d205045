"""Each fault of images and splits is planted and found; clean data gives no finding."""

import io
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy.ndimage import gaussian_filter
from sklearn.metrics import roc_auc_score

from qgraft.data.imageset import ImageSet
from qgraft.data.splits import clean_splits, paper_splits
from qgraft.data.surface import most_per_class, surface_images, surface_splits
from qgraft.data.synthetic import synthetic_steel
from qgraft.evaluation.audit import audit_images
from qgraft.evaluation.audit.controls import (
    SHORTCUT_AUC,
    separation,
    shortcut_controls,
)
from qgraft.evaluation.audit.copies import twins
from qgraft.evaluation.audit.evidence import evidence_of, sharpness_of
from qgraft.evaluation.audit.findings import counted
from qgraft.evaluation.audit.labels import label_noise, out_of_fold


def clean_set(n=120, seed=0, size=48, n_classes=2, per_group=1):
    """Return textures that differ from class to class in nothing at all."""
    rng = np.random.default_rng(seed)
    noise = gaussian_filter(rng.normal(size=(n, size, size)), (0, 1.2, 1.2))
    images = (noise / noise.std() * 25 + rng.normal(128, 15, (n, 1, 1))).clip(0, 255)
    labels = np.arange(n) % n_classes
    names = tuple(f"part_{i}" for i in range(n))
    classes = tuple(f"class_{k}" for k in range(n_classes))
    groups = np.arange(n) // per_group
    return ImageSet(images.astype(np.uint8), labels, groups, names, classes)


def separable_set(n=120, seed=0):
    """Return two classes that any model tells apart: noise on a ramp to the left or right."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % 2
    ramp = np.where(labels, 1, -1)[:, None, None] * np.linspace(-40, 40, 48)
    images = (rng.normal(120, 10, (n, 48, 48)) + ramp).clip(0, 255).astype(np.uint8)
    return ImageSet(images, labels, np.arange(n), tuple(map(str, range(n))))


def splits_of(images):
    return clean_splits(images, n_folds=3, seed=0)


def with_pixels(images, changes):
    pixels = images.images.copy()
    for i, image in changes.items():
        pixels[i] = image
    return replace(images, images=pixels)


def kinds(images, splits=None):
    return [finding["kind"] for finding in audit_images(images, splits)]


# ---- clean data gives nothing


@pytest.mark.parametrize("seed", range(3))
def test_embedded_set_gives_no_finding(seed):
    photographs = synthetic_steel(16, size=128, seed=seed)
    n = most_per_class(photographs)
    images = surface_images(photographs, protocol="clean", per_class=n, seed=seed, size=96)
    splits = surface_splits(photographs, images, protocol="clean", n_folds=3, seed=seed)
    assert audit_images(images, splits) == []


@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    n=st.integers(30, 160),
    seed=st.integers(0, 10**6),
    size=st.sampled_from([20, 48, 64, 70]),
    n_classes=st.integers(2, 4),
    per_group=st.integers(1, 3),
)
def test_generated_sets_give_no_finding(n, seed, size, n_classes, per_group):
    images = clean_set(n, seed, size, n_classes, per_group)
    rng = np.random.default_rng(seed)
    if n % 2:  # in colour
        tint = rng.integers(-20, 20, (1, 1, 1, 3))
        colour = (images.images[..., None].astype(int) + tint).clip(0, 255)
        images = replace(images, images=colour.astype(np.uint8))
    splits = splits_of(images) if n >= 90 and per_group == 1 else None
    assert audit_images(images, splits) == []


def test_separable_classes_are_no_fault():
    images = separable_set()
    assert audit_images(images, splits_of(images)) == []


def test_empty_parts_and_single_class():
    images = clean_set(24)
    one = replace(images, labels=np.zeros(24, dtype=np.int64), class_names=("only",))
    assert audit_images(one) == []
    none = np.empty(0, dtype=np.int64)
    assert len(twins(evidence_of(images), none, np.arange(24)).image) == 0


# ---- copies


def test_equal_pixels_on_both_sides():
    images = clean_set()
    splits = splits_of(images)
    copy, original = splits.holdout[3], splits.train[5]
    same = images.labels == images.labels[copy]
    original = next(i for i in splits.train if same[i])
    (finding,) = audit_images(with_pixels(images, {copy: images.images[original]}), splits)
    assert finding["kind"] == "shared_images"
    assert finding["severity"] == "high"
    assert finding["where"] == [f"{images.names[copy]} = {images.names[original]}"]
    n = len(splits.holdout)
    assert finding["message"].startswith(f"1 of {n} hold-out images with the pixels of a dev")


def test_equal_pixels_on_one_side():
    images = clean_set()
    (finding,) = audit_images(with_pixels(images, {8: images.images[2], 10: images.images[2]}))
    assert (finding["kind"], finding["severity"]) == ("repeated_images", "low")
    assert finding["where"] == ["part_8 = part_2", "part_10 = part_2"]


def test_equal_pixels_with_two_labels():
    images = clean_set()
    (finding,) = audit_images(with_pixels(images, {9: images.images[2]}))
    assert (finding["kind"], finding["severity"]) == ("contradicting_labels", "high")
    assert finding["where"] == ["part_9 = part_2"]


def as_jpeg(image):
    out = io.BytesIO()
    Image.fromarray(image).save(out, "JPEG", quality=50)
    return np.array(Image.open(out))


ALTERED = {
    "brighter": lambda image: np.clip(image.astype(int) + 3, 0, 255).astype(np.uint8),
    "saved as JPEG": as_jpeg,
    "contrast": lambda image: (image * 0.8 + 20).astype(np.uint8),
    "turned": np.rot90,
    "turned twice": lambda image: np.rot90(image, 2),
    "turned back": lambda image: np.rot90(image, 3),
    "mirrored": np.fliplr,
    "upside down": np.flipud,
    "transposed": np.transpose,
    "both diagonals": lambda image: np.rot90(image, 2).T,
    "turned and brighter": lambda image: np.clip(np.rot90(image) + 5.0, 0, 255).astype(np.uint8),
}


@pytest.mark.parametrize("alter", ALTERED.values(), ids=ALTERED)
def test_nearly_equal_pixels_on_both_sides(alter):
    images = clean_set()
    splits = splits_of(images)
    copy, original = splits.holdout[3], splits.train[5]
    altered = with_pixels(images, {copy: alter(images.images[original])})
    (finding,) = audit_images(altered, splits)
    assert (finding["kind"], finding["severity"]) == ("near_duplicates", "high")
    assert finding["where"] == [f"{images.names[copy]} ~ {images.names[original]}"]


def test_nearly_equal_pixels_across_groups():
    images = clean_set()
    altered = with_pixels(images, {i + 60: np.rot90(images.images[i]) for i in range(60)})
    (finding,) = audit_images(altered)
    assert (finding["kind"], finding["severity"]) == ("near_duplicates", "medium")
    assert finding["where"] == [f"part_{i} ~ part_{i + 60}" for i in range(60)]
    assert audit_images(replace(altered, groups=np.arange(120) % 60)) == []


def test_blocked_products_find_what_a_loop_over_pairs_finds(monkeypatch):
    monkeypatch.setattr("qgraft.evaluation.audit.copies.BLOCK", 7)
    images = clean_set(40)
    rng = np.random.default_rng(5)
    plan = {i: int(j) for i, j in zip((3, 11, 26), rng.integers(30, 40, 3), strict=True)}
    alter = (np.rot90, np.fliplr, np.transpose)
    changes = {i: a(images.images[j]) for a, (i, j) in zip(alter, plan.items(), strict=True)}
    found = twins(evidence_of(with_pixels(images, changes)), np.arange(30), np.arange(30, 40))
    assert dict(zip(found.image.tolist(), found.other.tolist(), strict=True)) == plan


def test_a_photograph_on_both_sides():
    images = clean_set()
    splits = splits_of(images)
    groups = images.groups.copy()
    groups[splits.holdout[0]] = groups[splits.train[0]]
    (finding,) = audit_images(replace(images, groups=groups), splits)
    assert (finding["kind"], finding["severity"]) == ("shared_photographs", "high")
    assert finding["where"] == [images.names[splits.holdout[0]]]


def test_images_seen_by_the_trunk():
    images = clean_set()
    splits = paper_splits(images, n_folds=3, seed=0)
    (finding,) = audit_images(images, splits)
    assert (finding["kind"], finding["severity"]) == ("seen_by_trunk", "high")
    assert finding["where"] == [images.names[i] for i in splits.train]
    assert "96 of the 120 images (80 %)" in finding["message"]


# ---- classes and shortcuts


def test_imbalance():
    images = clean_set(160)
    kept = np.flatnonzero((images.labels == 0) | (np.arange(160) < 40))
    (finding,) = audit_images(images.subset(kept))
    assert finding["kind"] == "class_balance"
    assert finding["where"] == ["class_1"]
    assert finding["message"].startswith("class_1 20 images against 80 of class_0")


def smaller(image):
    return np.array(Image.fromarray(image).resize((24, 24)).resize((48, 48)))


@pytest.mark.parametrize(
    ("spoil", "kind"),
    [(lambda image: (image * 0.7).astype(np.uint8), "brightness"), (smaller, "blur")],
)
def test_shortcuts(spoil, kind):
    images = clean_set()
    changes = {i: spoil(images.images[i]) for i in np.flatnonzero(images.labels == 0)}
    (finding,) = audit_images(with_pixels(images, changes))
    assert (finding["kind"], finding["severity"]) == (f"shortcut_{kind}", "high")
    assert finding["where"][0] in images.class_names


def test_crop_side_as_a_shortcut():
    images = clean_set()
    names = tuple(f"photo_{i}#0,0,{40 + 30 * y}" for i, y in enumerate(images.labels))
    assert kinds(replace(images, names=names)) == ["shortcut_size"]


def test_file_format_as_a_shortcut():
    images = clean_set()
    names = tuple(f"{i}.{'png' if y else 'JPG'}" for i, y in enumerate(images.labels))
    assert kinds(replace(images, names=names)) == ["shortcut_format"]
    mixed = tuple(f"{i}.{'png' if i % 3 else 'jpg'}" for i in range(len(images)))
    assert kinds(replace(images, names=mixed)) == []


def test_few_images_raise_no_alarm_however_well_they_are_told_apart():
    images = clean_set(12)
    dark = {i: images.images[i] // 2 for i in np.flatnonzero(images.labels == 0)}
    assert shortcut_controls(evidence_of(with_pixels(images, dark)))["brightness"].auc == 1
    assert kinds(with_pixels(images, dark)) == []


def test_crops_of_few_photographs_count_as_few():
    images = clean_set(120)
    dark = {i: images.images[i] // 2 for i in np.flatnonzero(images.labels == 0)}
    assert kinds(with_pixels(images, dark)) == ["shortcut_brightness"]
    few = replace(with_pixels(images, dark), groups=images.labels * 6 + np.arange(120) // 2 % 6)
    assert kinds(few) == []


def test_separation_is_the_area_under_the_curve():
    rng = np.random.default_rng(3)
    member = rng.random(300) < 0.3
    values = np.round(rng.normal(size=300) + 0.5 * member, 1)  # with ties
    expected = roc_auc_score(member, values)
    assert separation(values, member, np.arange(300)).auc == pytest.approx(expected)
    assert separation(-values, member, np.arange(300)).auc == pytest.approx(expected)


@settings(max_examples=60, deadline=None)
@given(n=st.integers(4, 400), seed=st.integers(0, 10**6), per_group=st.integers(1, 5))
def test_chance_is_never_surprising(n, seed, per_group):
    rng = np.random.default_rng(seed)
    groups = np.arange(n) // per_group
    values = rng.normal(size=n) + 3 * rng.normal(size=n)[groups]
    member = (rng.random(n) < 0.5)[groups]  # images of one photograph share value and label
    control = separation(values, member, groups)
    assert control.z < 5.2  # 2 exp(-5.2^2 / 2) = 3e-6
    if n > 200 * per_group:
        assert control.auc < SHORTCUT_AUC


# ---- labels


def test_wrong_labels_are_candidates():
    images = separable_set()
    spoiled = images.labels.copy()
    spoiled[[7, 30]] = 1 - spoiled[[7, 30]]
    (finding,) = audit_images(replace(images, labels=spoiled))
    assert finding["kind"] == "label_noise"
    places = {"7: normal, looks like anomalous", "30: anomalous, looks like normal"}
    assert set(finding["where"]) == places
    assert finding["message"].startswith("2 of 120 images like those of another class")


@pytest.mark.parametrize("seed", range(4))
def test_shuffled_labels_give_chance_and_no_finding(seed):
    rng = np.random.default_rng(seed)
    images = separable_set(200, seed)
    dark = {i: images.images[i] // 2 for i in np.flatnonzero(images.labels == 0)}
    images = with_pixels(images, dark)
    assert out_of_fold(evidence_of(images)).margins.min() > 0
    assert shortcut_controls(evidence_of(images))["brightness"].auc == 1
    shuffled = replace(images, labels=rng.permutation(images.labels))
    evidence = evidence_of(shuffled)
    right = (out_of_fold(evidence).predicted == evidence.labels).mean()
    assert abs(right - 0.5) < 4 * np.sqrt(0.25 / 200)
    for control in shortcut_controls(evidence).values():
        assert control.auc < 0.5 + 4 * np.sqrt(201 / (12 * 100 * 100))
    assert audit_images(shuffled) == []


def test_too_few_images_are_not_judged():
    images = separable_set(30)
    spoiled = images.labels.copy()
    spoiled[7] = 1 - spoiled[7]
    assert list(label_noise(evidence_of(replace(images, labels=spoiled)))) == []


# ---- evidence


def test_sharpness_knows_blur_and_nothing_else():
    rng = np.random.default_rng(0)
    noise = rng.integers(40, 200, (64, 64)).astype(np.uint8)
    smooth = np.add.outer(np.arange(64), np.arange(64)).astype(np.uint8)
    assert sharpness_of(noise) == pytest.approx(1, abs=0.03)
    assert sharpness_of(smooth) == 0.5
    assert sharpness_of(np.full((8, 8), 7, np.uint8)) == 0.5
    assert sharpness_of(np.zeros((1, 1), np.uint8)) == 0.5
    assert sharpness_of(noise // 2 + 60) == pytest.approx(sharpness_of(noise), abs=0.02)
    assert sharpness_of(smaller(noise[:48, :48])) < 0.8


def test_blank_images():
    images = clean_set()
    (finding,) = audit_images(with_pixels(images, {4: np.full((48, 48), 9, np.uint8)}))
    assert (finding["kind"], finding["where"]) == ("blank_images", ["part_4"])


def test_findings_come_worst_first():
    images = clean_set()
    flat, other = np.full((48, 48), 9, np.uint8), images.images
    found = audit_images(with_pixels(images, {4: flat, 9: other[2], 12: other[6]}))
    assert [f["severity"] for f in found] == ["high", "medium", "low"]


def test_numbers_agree_with_their_nouns():
    assert counted([1], "box", "boxes") == "1 box"
    assert counted("ab", "box", "boxes") == "2 boxes"
    assert counted(range(1200), "image") == "1,200 images"
