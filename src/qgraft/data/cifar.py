"""Pairs of CIFAR-10 classes from NumPy archives that nobody needs to trust.

An archive holds `images` uint8 (n, 32, 32, 3), `labels` uint8 with the class numbers of CIFAR-10
and, where known, `index`: the place in the original order. Sizes are read from the archive's
directory and the array headers before anything is unpacked; nothing is unpickled.
"""

from __future__ import annotations

import io
import lzma
import zipfile
import zlib
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from qgraft.data.imageset import ImageSet
from qgraft.errors import ConfigError, DataError

SIDE = 32
MAX_IMAGES = 60_000
HEADER_BYTES = 4096
JPEG_QUALITY = 75  # what comes close to the test images
HELD_OUT_FROM = 40_000  # original places of the last training batch
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
PAIRS = {"dogs-cats": (5, 3), "planes-cars": (0, 1)}  # label 0 first


class CifarPair(NamedTuple):
    """Two classes of CIFAR-10.

    Attributes:
        training: images of the first four training batches.
        held_out: images of the last training batch, pixels lossless like those of `training`.
        test: the published test images, here with the marks of JPEG compression.
    """

    training: ImageSet
    held_out: ImageSet
    test: ImageSet


def read_pair(folder: Path, pair: str) -> CifarPair:
    """Read `train_<a>_<b>.npz` and `test_<a>_<b>_from_jpeg.npz` of one of `PAIRS`.

    Raises:
        DataError: a file is missing, damaged, or not of this pair.
        ConfigError: there is no such pair.
    """
    if pair not in PAIRS:
        raise ConfigError(f"unknown pair {pair!r}; use one of {', '.join(PAIRS)}")
    numbers = PAIRS[pair]
    words = "_".join(sorted(CLASSES[number] for number in numbers))
    images, labels, places = _read(folder / f"train_{words}.npz", numbers)
    if places is None:
        raise DataError(
            f"{folder / f'train_{words}.npz'} has no array 'index', the order of images"
        )
    late = places >= HELD_OUT_FROM
    training = _image_set(images[~late], labels[~late], numbers, "train", places[~late])
    held_out = _image_set(images[late], labels[late], numbers, "train", places[late])
    images, labels, places = _read(folder / f"test_{words}_from_jpeg.npz", numbers)
    order = np.arange(len(labels)) if places is None else places
    return CifarPair(training, held_out, _image_set(images, labels, numbers, "test", order))


def through_jpeg(images: ImageSet, *, quality: int = JPEG_QUALITY) -> ImageSet:
    """Return the images as they come back from JPEG: the marks that the test images carry."""
    from PIL import Image

    def squeezed(pixels: np.ndarray) -> np.ndarray:
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "JPEG", quality=quality, subsampling="4:2:0")
        return np.asarray(Image.open(buffer))

    return replace(images, images=np.stack([squeezed(pixels) for pixels in images.images]))


def _image_set(
    images: np.ndarray, labels: np.ndarray, numbers: tuple[int, int], part: str, places: np.ndarray
) -> ImageSet:
    if set(np.unique(labels)) != {0, 1}:
        names = " and ".join(CLASSES[number] for number in numbers)
        raise DataError(f"the {part} images must show both {names}; one of them is missing")
    return ImageSet(
        images=images,
        labels=labels,
        groups=np.arange(len(labels)),
        names=tuple(f"{part}/{place}" for place in places),
        class_names=tuple(CLASSES[number] for number in numbers),
    )


def _read(path: Path, numbers: tuple[int, int]) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Return images, labels of 0 and 1, and original places."""
    try:
        with zipfile.ZipFile(path) as archive, np.load(path, allow_pickle=False) as arrays:
            held = {name.removesuffix(".npy") for name in archive.namelist()}
            images = _array(archive, arrays, "images", SIDE * SIDE * 3)
            labels = _array(archive, arrays, "labels", 1)
            places = _array(archive, arrays, "index", 8) if "index" in held else None
    except FileNotFoundError:
        raise DataError(f"{path} does not exist; it must hold two classes of CIFAR-10") from None
    except (
        KeyError, ValueError, OSError, EOFError, RuntimeError, NotImplementedError, MemoryError,
        zipfile.BadZipFile, zlib.error, lzma.LZMAError,
    ) as error:  # fmt: skip
        raise DataError(f"{path} is damaged or no archive of images ({error})") from None
    if images.dtype != np.uint8 or images.shape != (len(labels), SIDE, SIDE, 3):
        shape = " x ".join(map(str, images.shape))
        raise DataError(f"{path} holds images {shape} of {images.dtype}, not 32 x 32 x 3 of uint8")
    if labels.dtype.kind not in "iu" or labels.ndim != 1 or set(np.unique(labels)) - set(numbers):
        raise DataError(f"{path} has labels other than {numbers[0]} and {numbers[1]}")
    if places is not None and (places.dtype.kind not in "iu" or places.shape != labels.shape):
        raise DataError(f"{path} has an 'index' that does not number its images")
    places = None if places is None else places.astype(np.int64)
    return images, (labels == numbers[1]).astype(np.int64), places


def _array(
    archive: zipfile.ZipFile, arrays: np.lib.npyio.NpzFile, name: str, row_bytes: int
) -> np.ndarray:
    """Return one array, unpacked only if the directory promises a size that can be right."""
    size = archive.getinfo(f"{name}.npy").file_size
    if size > MAX_IMAGES * row_bytes + HEADER_BYTES:
        raise ValueError(f"{name} takes {size:,} bytes, more than {MAX_IMAGES:,} images need")
    array = arrays[name]
    if not isinstance(array, np.ndarray):  # what NumPy gives for a member that is no array
        raise ValueError(f"{name} is not an array")
    return array
