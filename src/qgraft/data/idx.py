"""MNIST and Fashion-MNIST files in, uint8 images and labels out: the IDX format, gzipped or plain.

An IDX file starts with two zero bytes, a type code (8: unsigned bytes), the number of dimensions
and their sizes as big-endian 32-bit numbers; the values follow. Sizes are checked before anything
is unpacked, and unpacking stops at the size the header promises.
"""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np

from qgraft.errors import DataError

UNSIGNED_BYTES = 8
MAX_BYTES = 100_000_000  # MNIST has 47,040,000
MAX_SIDE = 1_000
GZIP_MAGIC = b"\x1f\x8b"
STEMS = {"train": "train", "test": "t10k"}


class Digits(NamedTuple):
    """Images `(n, h, w)` uint8 and labels `(n,)` int64."""

    images: np.ndarray
    labels: np.ndarray

    def only(self, classes: tuple[int, ...]) -> Digits:
        """Return the images of some classes, in file order."""
        keep = np.isin(self.labels, classes)
        return Digits(self.images[keep], self.labels[keep])


def read_digits(folder: Path, split: str, *, n_classes: int = 10) -> Digits:
    """Return the `"train"` or `"test"` part of a folder with the four files of MNIST.

    The files are `train-images-idx3-ubyte`, `train-labels-idx1-ubyte` and the same with `t10k`,
    with or without `.gz`.

    Raises:
        DataError: a file is missing, damaged, or does not fit the other one.
    """
    if not folder.is_dir():
        raise DataError(
            f"{folder} is not a folder; it must hold train-images-idx3-ubyte.gz and the other "
            "three files of MNIST"
        )
    stem = STEMS[split]
    image_file = _find(folder, f"{stem}-images-idx3-ubyte")
    label_file = _find(folder, f"{stem}-labels-idx1-ubyte")
    images, labels = read_idx(image_file, 3), read_idx(label_file, 1)
    if len(images) != len(labels):
        raise DataError(
            f"{image_file} has {len(images):,} images, but {label_file} {len(labels):,} labels; "
            "take both files from one data set"
        )
    if len(labels) and labels.max() >= n_classes:
        raise DataError(
            f"{label_file} has a label {labels.max()}; labels run from 0 to {n_classes - 1}"
        )
    return Digits(images, labels.astype(np.int64))


def read_idx(path: Path, n_dims: int) -> np.ndarray:
    """Return the unsigned bytes of an IDX file as an array of `n_dims` dimensions.

    Raises:
        DataError: the file is missing, truncated, too large, or not such an array.
    """
    try:
        with path.open("rb") as raw:
            is_packed = raw.read(2) == GZIP_MAGIC
            raw.seek(0)
            source = gzip.GzipFile(fileobj=raw) if is_packed else raw
            header = source.read(4 + 4 * n_dims)
            shape = _shape(path, header, n_dims)
            size = int(np.prod(shape, dtype=np.int64))
            content = source.read(size + 1)
    except FileNotFoundError:
        raise DataError(f"{path} does not exist") from None
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{path} is damaged or cut off ({error}); fetch it again") from None
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from None
    if len(content) != size:
        how = "more" if len(content) > size else f"only {len(content):,}"
        raise DataError(f"{path} promises {size:,} bytes of values and holds {how}; fetch it again")
    return np.frombuffer(content, np.uint8).reshape(shape).copy()


def _find(folder: Path, name: str) -> Path:
    for candidate in (folder / f"{name}.gz", folder / name):
        if candidate.exists():
            return candidate
    raise DataError(f"{folder} has no {name}.gz; it must hold the four files of MNIST")


def _shape(path: Path, header: bytes, n_dims: int) -> tuple[int, ...]:
    """Return the sizes a header names."""
    if len(header) < 4 or header[:2] != b"\0\0":
        raise DataError(f"{path} is not an IDX file: it starts with {header[:4].hex(' ') or '-'}")
    if header[2] != UNSIGNED_BYTES or header[3] != n_dims:
        raise DataError(
            f"{path} holds {header[3]} dimensions of type {header[2]}; {n_dims} dimensions of "
            f"type {UNSIGNED_BYTES} (unsigned bytes) are needed"
        )
    if len(header) < 4 + 4 * n_dims:
        raise DataError(f"{path} is cut off within its header; fetch it again")
    shape = tuple(int(size) for size in np.frombuffer(header, ">u4", n_dims, 4))
    size = 1
    for part in shape:
        size *= part
    if size > MAX_BYTES or any(side > MAX_SIDE for side in shape[1:]):
        raise DataError(
            f"{path} promises an array of {' x '.join(f'{part:,}' for part in shape)}; at most "
            f"{MAX_BYTES:,} bytes and {MAX_SIDE:,} pixels a side are read"
        )
    if 0 in shape:
        raise DataError(f"{path} is empty: its sizes are {' x '.join(map(str, shape))}")
    return shape
