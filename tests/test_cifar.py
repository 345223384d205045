"""CIFAR pairs: intact ones are read, damaged and hostile ones refused in words."""

import contextlib
import io
import zipfile
from dataclasses import replace

import numpy as np
import pytest

from qgraft.data.cifar import read_pair, through_jpeg
from qgraft.errors import ConfigError, DataError

RNG = np.random.default_rng(0)


def archive(path, n=8, **changes):
    arrays = {
        "images": RNG.integers(0, 256, (n, 32, 32, 3), dtype=np.uint8),
        "labels": np.where(np.arange(n) % 2, 3, 5).astype(np.uint8),
        "index": np.arange(n) * 10_000,
        **changes,
    }
    np.savez(path, **{name: a for name, a in arrays.items() if a is not None})
    return arrays


@pytest.fixture
def folder(tmp_path):
    archive(tmp_path / "train_cat_dog.npz")
    archive(tmp_path / "test_cat_dog_from_jpeg.npz", n=4, index=None)
    return tmp_path


def test_dogs_and_cats(folder):
    kept = archive(folder / "train_cat_dog.npz")
    pair = read_pair(folder, "dogs-cats")
    assert (len(pair.training), len(pair.held_out), len(pair.test)) == (4, 4, 4)
    assert pair.training.class_names == ("dog", "cat")
    assert pair.training.labels.tolist() == [0, 1, 0, 1]
    np.testing.assert_array_equal(pair.held_out.images, kept["images"][4:])
    assert pair.held_out.names[0] == "train/40000"
    assert pair.test.names == ("test/0", "test/1", "test/2", "test/3")


def test_an_unknown_pair_is_refused(folder):
    with pytest.raises(ConfigError, match="unknown pair 'frogs'; use one of dogs-cats"):
        read_pair(folder, "frogs")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(DataError, match=r"train_cat_dog\.npz does not exist"):
        read_pair(tmp_path, "dogs-cats")


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"images": np.zeros((8, 32, 32), np.uint8)}, "holds images 8 x 32 x 32 of uint8"),
        ({"images": np.zeros((8, 32, 32, 3), np.float32)}, "damaged|float32"),
        ({"labels": np.full(8, 7, np.uint8)}, "labels other than 5 and 3"),
        ({"labels": np.full(8, 3, np.uint8)}, "must show both dog and cat"),
        ({"index": None}, "no array 'index'"),
        ({"index": np.arange(3)}, "'index' that does not number its images"),
        ({"images": np.array([{"a": 1}], dtype=object)}, "damaged or no archive"),
        ({"images": None}, "damaged or no archive"),
    ],
)
def test_wrong_arrays_are_refused(folder, changes, match):
    archive(folder / "train_cat_dog.npz", **changes)
    with pytest.raises(DataError, match=match):
        read_pair(folder, "dogs-cats")


def test_a_file_that_would_unpack_to_gigabytes_is_refused_by_its_directory(folder):
    with zipfile.ZipFile(folder / "train_cat_dog.npz", "w", zipfile.ZIP_DEFLATED) as bomb:
        bomb.writestr("images.npy", bytes(200_000_000))
    with pytest.raises(DataError, match=r"images takes 200,000,000 bytes, more than 60,000"):
        read_pair(folder, "dogs-cats")


def test_no_damage_leads_to_anything_but_a_sentence(folder, mutants):
    path = folder / "train_cat_dog.npz"
    intact = path.read_bytes()
    for _ in range(mutants(60)):
        damaged = bytearray(intact[: RNG.integers(1, len(intact) + 1)])
        for place in RNG.integers(0, len(damaged), 4):
            damaged[place] = RNG.integers(0, 256)
        path.write_bytes(damaged)
        with contextlib.suppress(DataError):  # nothing else may come out
            read_pair(folder, "dogs-cats")


def test_an_array_header_may_not_promise_more_than_the_file(folder):
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"descr": "|u1", "fortran_order": False, "shape": (10**9, 32, 32, 3)}
    )
    with zipfile.ZipFile(folder / "train_cat_dog.npz", "w") as liar:
        liar.writestr("images.npy", header.getvalue() + bytes(100))
    with pytest.raises(DataError, match="damaged or no archive"):
        read_pair(folder, "dogs-cats")


def test_jpeg_leaves_marks_but_nothing_else(folder):
    images = read_pair(folder, "dogs-cats").training
    smooth = replace(images, images=np.full_like(images.images, 77))
    assert np.abs(through_jpeg(smooth).images.astype(int) - 77).max() <= 1
    marked = through_jpeg(images)
    assert not np.array_equal(marked.images, images.images)
    assert marked.names == images.names


@pytest.mark.real_data
def test_jpeg_training_images_come_close_to_the_test_images(real_data):
    first = np.load(real_data / "cifar10" / "test_first1000_lossless.npz", allow_pickle=False)
    labels, pixels = first["labels"], first["images"]
    cats = pixels[labels == 3]
    pair = read_pair(real_data / "cifar10", "dogs-cats")
    n = len(cats)
    theirs = pair.test.images[pair.test.labels == 1][:n].astype(int)
    ours = through_jpeg(replace(pair.test.subset(range(n)), images=cats)).images
    assert np.abs(ours - theirs).mean() < 1.0 < np.abs(cats - theirs).mean()


@pytest.mark.real_data
def test_the_public_pairs(real_data):
    pair = read_pair(real_data / "cifar10", "planes-cars")
    assert (len(pair.training), len(pair.held_out), len(pair.test)) == (7972, 2028, 2000)
