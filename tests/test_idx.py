"""Files of MNIST: real shapes, and everything that can be wrong with a file."""

import gzip
import struct
from contextlib import suppress
from functools import partial

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qgraft.data.digits import embedded_transfer_data, read_transfer_data
from qgraft.data.idx import Digits, read_digits, read_idx
from qgraft.errors import DataError

# The same bytes at every time of day: test processes compare the names of their tests.
packed_as = partial(gzip.compress, mtime=0)
PIXELS = np.arange(2 * 3 * 4, dtype=np.uint8).reshape(2, 3, 4)


def idx(array, kind=8):
    head = bytes([0, 0, kind, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    return head + array.tobytes()


def write_digits(folder, n=20, side=28, labels=None, packed=True):
    """Write a data set of `n` images for each of the four files."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    if labels is None:
        labels = np.arange(n) % 10
    for stem in ("train", "t10k"):
        images = rng.integers(0, 255, (n, side, side)).astype(np.uint8)
        for name, array in (("images-idx3", images), ("labels-idx1", labels.astype(np.uint8))):
            content = idx(array)
            path = folder / f"{stem}-{name}-ubyte{'.gz' if packed else ''}"
            path.write_bytes(packed_as(content) if packed else content)
    return folder


@pytest.mark.parametrize("pack", [packed_as, bytes])
def test_bytes_in_are_pixels_out(tmp_path, pack):
    path = tmp_path / "images"
    path.write_bytes(pack(idx(PIXELS)))
    found = read_idx(path, 3)
    assert found.dtype == np.uint8
    assert found.flags.writeable
    np.testing.assert_array_equal(found, PIXELS)


@pytest.mark.parametrize("packed", [True, False])
def test_a_data_set_has_images_and_labels(tmp_path, packed):
    folder = write_digits(tmp_path / "mnist", packed=packed)
    digits = read_digits(folder, "test")
    assert digits.images.shape == (20, 28, 28)
    assert digits.labels.dtype == np.int64
    only = digits.only((3, 7))
    assert only.labels.tolist() == [3, 7, 3, 7]
    np.testing.assert_array_equal(only.images[0], digits.images[3])


WHOLE = idx(PIXELS)
PACKED = packed_as(WHOLE)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not an IDX file: it starts with -"),
        (b"\0\0", "not an IDX file: it starts with 00 00"),
        (b"\x89PNG\r\n\x1a\n" + bytes(40), "not an IDX file: it starts with 89 50 4e 47"),
        (WHOLE[:10], "cut off within its header"),
        (WHOLE[:-1], "promises 24 bytes of values and holds only 23"),
        (WHOLE + b"!", "promises 24 bytes of values and holds more"),
        (PACKED[: len(PACKED) // 2], "damaged or cut off"),
        (PACKED[:-12] + bytes(12), "damaged or cut off"),
        (PACKED[:12] + bytes(8) + PACKED[20:], "damaged or cut off"),
        (idx(PIXELS, kind=13), "3 dimensions of type 13; 3 dimensions of type 8"),
        (idx(PIXELS[0]), "2 dimensions of type 8; 3 dimensions"),
        (idx(PIXELS[:0]), r"is empty: its sizes are 0 x 3 x 4"),
        (bytes([0, 0, 8, 3]) + struct.pack(">3I", 2**32 - 1, 28, 28), "at most 100,000,000 bytes"),
        (bytes([0, 0, 8, 3]) + struct.pack(">3I", 1, 2000, 28), "1,000 pixels a side"),
        (bytes([0, 0, 8, 3]) + struct.pack(">3I", 2**31, 2**31, 4), "at most 100,000,000 bytes"),
        (packed_as(WHOLE + bytes(10**7)), "promises 24 bytes of values and holds more"),
    ],
)
def test_damaged_files_are_explained(tmp_path, content, message):
    path = tmp_path / "images"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_idx(path, 3)


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_any_damage_is_an_array_or_a_data_error(tmp_path, data):
    content = bytearray(data.draw(st.sampled_from([WHOLE, PACKED])))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path / "images"
    path.write_bytes(bytes(content[: data.draw(st.integers(0, len(content)))]))
    with suppress(DataError):
        assert read_idx(path, 3).ndim == 3


def test_missing_and_mismatched_files(tmp_path):
    with pytest.raises(DataError, match="is not a folder; it must hold train-images"):
        read_digits(tmp_path / "none", "train")
    folder = write_digits(tmp_path / "mnist")
    (folder / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(DataError, match=r"has no t10k-labels-idx1-ubyte\.gz"):
        read_digits(folder, "test")
    (folder / "t10k-labels-idx1-ubyte").write_bytes(idx(np.zeros(19, np.uint8)))
    with pytest.raises(DataError, match=r"20 images, but .* 19 labels"):
        read_digits(folder, "test")
    (folder / "t10k-labels-idx1-ubyte").write_bytes(idx(np.full(20, 11, np.uint8)))
    with pytest.raises(DataError, match="has a label 11; labels run from 0 to 9"):
        read_digits(folder, "test")
    (folder / "t10k-labels-idx1-ubyte").unlink()
    (folder / "t10k-labels-idx1-ubyte").mkdir()
    with pytest.raises(DataError, match="cannot be read: Is a directory"):
        read_digits(folder, "test")
    with pytest.raises(DataError, match="does not exist"):
        read_idx(tmp_path / "gone", 1)


def test_transfer_data_are_two_folders_of_28_pixels(tmp_path):
    with pytest.raises(DataError, match="it must hold mnist/ and fashion-mnist/"):
        read_transfer_data(tmp_path / "none")
    write_digits(tmp_path / "fashion-mnist")
    with pytest.raises(DataError, match="mnist is not a folder"):
        read_transfer_data(tmp_path)
    write_digits(tmp_path / "mnist", n=30)
    data = read_transfer_data(tmp_path)
    assert [len(part.labels) for part in data[:3]] == [20, 30, 30]
    write_digits(tmp_path / "wide" / "fashion-mnist", side=32)
    with pytest.raises(DataError, match="32 x 32; 28 x 28 are needed"):
        read_transfer_data(tmp_path / "wide")


def test_embedded_digits_keep_source_and_target_apart():
    data = embedded_transfer_data()
    assert data.source.images.shape[1:] == (28, 28)
    assert set(data.source.labels.tolist()) == {0, 1, 2, 3}
    assert set(data.training.labels.tolist()) == {0, 1, 2, 3, 8, 9}
    assert isinstance(data.test, Digits)
    whole = [image.tobytes() for part in data[:3] for image in part.images]
    assert len(whole) == 1797
    assert data.source.images.max() == 255


@pytest.mark.real_data
def test_public_files(real_data):
    data = read_transfer_data(real_data)
    assert [part.images.shape for part in data[:3]] == [
        (60_000, 28, 28), (60_000, 28, 28), (10_000, 28, 28),
    ]  # fmt: skip
    sizes = [
        (len(data.training.only(pair).labels), len(data.test.only(pair).labels))
        for pair in ((0, 1), (2, 3), (8, 9))
    ]
    assert sizes == [(12_665, 2_115), (12_089, 2_042), (11_800, 1_983)]
