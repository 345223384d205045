"""The two surface protocols: counts, matching, grouping, and what they leak."""

from dataclasses import replace

import numpy as np
import pytest

from qgraft.data.imageset import ANOMALOUS, NORMAL, Box, Photographs
from qgraft.data.neu_det import load_photographs
from qgraft.data.splits import Splits, clean_splits, paper_splits
from qgraft.data.surface import CUT_MARK, most_per_class, surface_images, surface_splits
from qgraft.errors import DataError
from qgraft.evaluation.shortcuts import spectrum_control


def photographs(n=36, size=80, seed=0):
    """Return noise photographs, each with one box in a corner; the last two are equal."""
    rng = np.random.default_rng(seed)
    images = [rng.integers(0, 255, (size, size), dtype=np.uint8) for _ in range(n)]
    images[-1] = images[-2]
    boxes = tuple((Box(0, 0, 20 + i % 7, 25, "scratches"),) for i in range(n))
    defects = tuple(("scratches", "patches")[i % 2] for i in range(n))
    return Photographs(images, defects, boxes, tuple(f"{d}_{i}" for i, d in enumerate(defects)))


def sides(images, label):
    names = [name for name, y in zip(images.names, images.labels, strict=True) if y == label]
    return [int(name.split(CUT_MARK)[1].split(",")[2]) for name in names]


def test_paper_gives_whole_photographs_against_magnified_crops():
    source = photographs()
    images = surface_images(source, protocol="paper", per_class=20, seed=1, size=80)
    assert np.bincount(images.labels).tolist() == [20, 20]
    for image, name in zip(images.images[20:], images.names[20:], strict=True):
        np.testing.assert_array_equal(image, source.images[source.names.index(name)])
    assert all(32 <= side < 80 for side in sides(images, NORMAL))


def test_clean_gives_both_classes_the_same_sides_and_photographs():
    images = surface_images(photographs(), protocol="clean", per_class=20, seed=1, size=64)
    assert sides(images, NORMAL) == sides(images, ANOMALOUS)
    np.testing.assert_array_equal(images.groups[:20], images.groups[20:])


def test_normal_crops_touch_no_box():
    source = photographs()
    images = surface_images(source, protocol="clean", per_class=36, seed=0, size=64)
    for name in images.names[:36]:
        photograph, place = name.split(CUT_MARK)
        x, y, _side = map(int, place.split(","))
        (box,) = source.boxes[source.names.index(photograph)]
        assert x >= box.x1 or y >= box.y1


def test_equal_photographs_are_one_group():
    images = surface_images(photographs(), protocol="clean", per_class=36, seed=0, size=64)
    assert len(np.unique(images.groups)) == 35


def test_same_seed_same_images_other_seed_others():
    first, again, other = (
        surface_images(photographs(), protocol="clean", per_class=20, seed=seed, size=64)
        for seed in (3, 3, 4)
    )
    assert first.digest() == again.digest() != other.digest()


def test_too_many_images_asked_for():
    with pytest.raises(DataError, match=r"1000 images per class .* lower --per-class"):
        surface_images(photographs(), protocol="paper", per_class=1000, seed=0)


def test_most_per_class_counts_photographs_with_room():
    source = photographs(6)
    assert most_per_class(source) == 6
    full = Photographs(
        source.images, source.defects, ((Box(0, 0, 80, 80, "x"),),) * 6, source.names
    )
    assert most_per_class(full) == 0


def test_paper_splits_are_the_published_sizes():
    images = surface_images(photographs(), protocol="paper", per_class=36, seed=0, size=64)
    splits = paper_splits(images, n_folds=6, seed=0)
    assert len(splits.select) == int(0.2 * 72)
    assert len(splits.holdout) == 0
    np.testing.assert_array_equal(np.sort(np.r_[splits.train, splits.select]), np.arange(72))
    np.testing.assert_array_equal(splits.development, np.arange(72))


@pytest.mark.parametrize("seed", range(5))
def test_clean_splits_never_part_a_photograph(seed):
    source = photographs()
    images = surface_images(source, protocol="clean", per_class=36, seed=seed, size=64)
    splits = surface_splits(source, images, protocol="clean", n_folds=3, seed=seed)
    parts = [splits.holdout, *splits.folds]
    np.testing.assert_array_equal(np.sort(np.concatenate(parts)), np.arange(72))
    groups = [set(images.groups[part]) for part in parts]
    assert sum(map(len, groups)) == len(set().union(*groups))
    assert not set(images.groups[splits.train]) & set(images.groups[splits.select])
    assert not set(images.groups[splits.select]) & set(images.groups[splits.holdout])
    np.testing.assert_array_equal(np.sort(np.r_[splits.train, splits.select]), splits.development)
    for fold in range(3):
        learned = splits.fold_train(fold)
        assert not set(images.groups[learned]) & set(images.groups[splits.folds[fold]])


def test_assigned_splits_are_kept():
    images = surface_images(photographs(), protocol="clean", per_class=36, seed=0, size=64)
    words = ["test" if g < 8 else "val" if g < 14 else "train" for g in images.groups]
    splits = clean_splits(images, n_folds=3, seed=0, assigned=words)
    assert [words[i] for i in splits.holdout] == ["test"] * 16
    assert [words[i] for i in splits.select] == ["val"] * 12
    assert set(splits.development) == {i for i, word in enumerate(words) if word != "test"}


@pytest.mark.parametrize("seed", range(4))
def test_a_given_selection_part_stays_out_of_the_drawn_hold_out(seed):
    images = surface_images(photographs(), protocol="clean", per_class=36, seed=0, size=64)
    words = ["val" if g < 9 else "" for g in images.groups]
    splits = clean_splits(images, n_folds=3, seed=seed, assigned=words)
    assert not set(splits.select) & set(splits.holdout)
    assert {words[i] for i in splits.select} == {"val"}
    assert set(splits.select) <= set(splits.development)


def test_a_hold_out_of_one_class_is_refused():
    images = surface_images(photographs(), protocol="clean", per_class=36, seed=0, size=64)
    lonely = replace(images, groups=np.arange(72))
    words = ["test" if i > 60 else "" for i in range(72)]
    with pytest.raises(DataError, match=r"class 'normal' has 0 photographs where split 'test'"):
        clean_splits(lonely, n_folds=3, seed=0, assigned=words)


def test_parts_that_share_an_image_cannot_be_made():
    one = np.array([1, 2])
    with pytest.raises(DataError, match="must not share an image"):
        Splits(train=one, select=np.array([2]), holdout=np.array([5]), folds=(one,))


def test_photographs_without_boxes_are_normal_only():
    source = photographs()
    bare = replace(source, boxes=((), (), *source.boxes[2:]))
    for protocol in ("paper", "clean"):
        images = surface_images(bare, protocol=protocol, per_class=34, seed=0, size=64)
        anomalous = {name.split(CUT_MARK)[0] for name in images.names[34:]}
        assert not anomalous & set(bare.names[:2])
    with pytest.raises(DataError, match="no photograph has a box"):
        surface_images(replace(source, boxes=((),) * 36), protocol="clean", per_class=3, seed=0)


def test_an_assignment_that_parts_a_group_is_refused():
    images = surface_images(photographs(), protocol="clean", per_class=36, seed=0, size=64)
    words = ["test" if y else "train" for y in images.labels]
    with pytest.raises(DataError, match=r"35 groups have images both in split 'test' and outside"):
        clean_splits(images, n_folds=3, seed=0, assigned=words)


def test_too_few_photographs_for_the_folds():
    images = surface_images(photographs(6), protocol="clean", per_class=6, seed=0, size=64)
    with pytest.raises(DataError, match=r"class 'normal' has 4 photographs where 6 folds needs"):
        clean_splits(images, n_folds=6, seed=0)


@pytest.mark.real_data
def test_neu_det_quirks_are_counted_not_fatal(real_data):
    every = load_photographs(
        real_data / "neu-det",
        classes=(
            "crazing",
            "inclusion",
            "patches",
            "pitted_surface",
            "rolled-in_scale",
            "scratches",
        ),
    )
    text = "\n".join(every.findings)
    assert len(every) == 1800
    assert "188 boxes in 123 images carry another class" in text
    assert "3 boxes occur twice" in text
    assert "174 annotations name their image without suffix" in text
    assert "patches_105 = patches_101" in text
    assert sum(map(len, every.boxes)) == 4189 - 3


@pytest.mark.real_data
def test_blur_alone_separates_the_published_protocol_only(real_data):
    """The reference measurement: F1 0.877 / AUC 0.950 (paper) and 0.715 / 0.798 (matched)."""
    source = load_photographs(real_data / "neu-det")
    assert len(source) == 1200
    scores = {
        protocol: spectrum_control(
            surface_images(source, protocol=protocol, per_class=1103, seed=0)
        )
        for protocol in ("paper", "clean")
    }
    assert scores["paper"]["f1"] == pytest.approx(0.877, abs=0.02)
    assert scores["paper"]["auc"] == pytest.approx(0.950, abs=0.02)
    assert scores["clean"]["f1"] == pytest.approx(0.715, abs=0.02)
    assert scores["clean"]["auc"] == pytest.approx(0.798, abs=0.03)
