"""The only code that decodes image bytes, so every limit on an image lives here.

Bytes in, uint8 array out: `(h, w)` where the content is grey, else `(h, w, 3)`. Size is judged from
the header before a pixel is decoded, since a file of 10 KB can ask for 400 MB. Whatever the
bytes are, the outcome is an array or an `ImageError`.
"""

from __future__ import annotations

import io
import stat
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image, ImageFile, ImageOps

from qgraft.errors import ConfigError, ImageError

SERVER_FORMATS = ("JPEG", "PNG")
DATASET_FORMATS = ("JPEG", "PNG", "BMP")
TIFF_FORMATS = (*DATASET_FORMATS, "TIFF")

MAX_BYTES = 20 * 2**20
MAX_PIXELS = 25_000_000
MAX_SIDE = 10_000
MAX_JPEG_SCANS = 64  # a progressive file has about ten; each one costs a pass over all pixels

_SIGNATURES = {
    b"\xff\xd8\xff": "JPEG",
    b"\x89PNG\r\n\x1a\n": "PNG",
    b"BM": "BMP",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
    b"II+\0": "TIFF",
    b"MM\0+": "TIFF",
    b"GIF8": "GIF",
    b"RIFF": "WebP",
    b"%PDF": "PDF",
}
_GREY_MODES = ("1", "L", "LA", "La")
_UNSCALED_MODES = ("I", "F")  # 32-bit numbers with no agreed white

# `catch_warnings` swaps a list that all threads share, so only one of ours may hold it at a time.
_WARNINGS = threading.Lock()


def decode_image(
    data: bytes, name: str, *, formats: tuple[str, ...] = DATASET_FORMATS
) -> np.ndarray:
    """Decode one still image to uint8 `(h, w)` where its content is grey, else `(h, w, 3)`.

    EXIF orientation is applied, alpha and metadata are dropped, 16-bit grey is scaled to 8 bit.

    Args:
        data: the bytes of the file.
        name: what to call the image in messages.
        formats: the allowed formats, in Pillow's words.

    Raises:
        ImageError: the bytes are not an intact image of an allowed format within the limits.
    """
    _check_bytes(data, name, formats)
    try:
        with _quiet_pillow():
            image = Image.open(io.BytesIO(data), formats=formats)
            _check_header(image, name)
        image.load()
        with _quiet_pillow():
            ImageOps.exif_transpose(image, in_place=True)
        return _to_array(image, name)
    except ImageError:
        raise
    except Exception as error:  # decoders meet hostile bytes with exceptions of every type
        reason = "not recognised" if isinstance(error, Image.UnidentifiedImageError) else error
        raise ImageError(
            f"{name} is damaged and cannot be decoded ({reason}); replace it or leave it out"
        ) from None


def read_image(
    path: Path, *, channels: Literal[1, 3], size: int | None = None, allow_tiff: bool = False
) -> np.ndarray:
    """Read an image file as uint8 `(h, w)` for one channel or `(h, w, 3)` for three.

    Args:
        path: a regular file.
        channels: 1 for grey, 3 for RGB.
        size: side in pixels to resize to, see `resize`; None keeps the size of the file.
        allow_tiff: accept TIFF as well, whose decoder has the longest record of faults.

    Raises:
        ImageError: the file cannot be read, or its bytes are refused by `decode_image`.
    """
    formats = TIFF_FORMATS if allow_tiff else DATASET_FORMATS
    image = as_channels(decode_image(read_bytes(path), str(path), formats=formats), channels)
    return image if size is None else resize(image, size)


def as_channels(image: np.ndarray, channels: Literal[1, 3]) -> np.ndarray:
    """Return a uint8 image as grey `(h, w)` or RGB `(h, w, 3)`; three equal channels stay exact.

    Grey from colour is the luma of ITU-R BT.601.
    """
    if channels not in (1, 3):
        raise ConfigError(f"channels must be 1 (grey) or 3 (RGB), got {channels}")
    if image.ndim == 2:
        return image if channels == 1 else np.repeat(image[:, :, None], 3, axis=2)
    return image if channels == 3 else np.array(Image.fromarray(image).convert("L"))


def resize(image: np.ndarray, size: int) -> np.ndarray:
    """Resize a uint8 image to `size` x `size`, bilinear, with antialiasing when it shrinks.

    Photographs and crops all pass through here: one resampling leaves one fingerprint.
    """
    if not 1 <= size <= MAX_SIDE:
        raise ConfigError(f"image size must be 1 to {MAX_SIDE} pixels, got {size}")
    return np.array(Image.fromarray(image).resize((size, size), Image.Resampling.BILINEAR))


@contextmanager
def _quiet_pillow() -> Iterator[None]:
    """Turn Pillow's bomb warning into an error and keep its remarks on metadata off the screen."""
    with _WARNINGS, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        yield


def read_bytes(path: Path) -> bytes:
    """Return the bytes of a regular file, or one more than `decode_image` allows.

    Raises:
        ImageError: it is no file or cannot be read.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise ImageError(f"{path} is not a file; name an image file")
        with path.open("rb") as handle:
            return handle.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ImageError(f"{path} cannot be read ({reason}); check its path and rights") from None


def _check_bytes(data: bytes, name: str, formats: tuple[str, ...]) -> None:
    if not data:
        raise ImageError(f"{name} is empty (0 bytes); replace it or leave it out")
    if len(data) > MAX_BYTES:
        raise ImageError(f"{name} is larger than {MAX_BYTES // 2**20} MB; save it smaller")
    kind = next((kind for magic, kind in _SIGNATURES.items() if data.startswith(magic)), None)
    if kind not in formats:
        raise ImageError(
            f"{name} holds {kind or 'no known image format'}, allowed are {', '.join(formats)}; "
            "convert it to PNG" + (" or allow TIFF" if kind == "TIFF" else "")
        )
    scans = data.count(b"\xff\xda") if kind == "JPEG" else 0
    if scans > MAX_JPEG_SCANS:
        raise ImageError(f"{name} has {scans} JPEG scans, at most {MAX_JPEG_SCANS}; save it anew")


def _check_header(image: ImageFile.ImageFile, name: str) -> None:
    width, height = image.size
    if min(width, height) < 1 or max(width, height) > MAX_SIDE or width * height > MAX_PIXELS:
        raise ImageError(
            f"{name} is {width} x {height} pixels; allowed are sides of 1 to {MAX_SIDE:,} and "
            f"{MAX_PIXELS // 10**6} megapixels in all, so scale it down or cut it into tiles"
        )
    frames = getattr(image, "n_frames", 1)
    if frames != 1:
        raise ImageError(f"{name} holds {frames} frames; save the one to use as a still image")


def _to_array(image: Image.Image, name: str) -> np.ndarray:
    if image.mode in _UNSCALED_MODES:
        raise ImageError(f"{name} has 32-bit pixels with no agreed white; save it with 8 or 16 bit")
    if image.mode.startswith("I;16"):
        wide = np.asarray(image).astype(np.uint16, copy=False)
        return (wide // 257 + (wide % 257 > 128)).astype(np.uint8)  # 65535 -> 255, nearest
    image.info.pop("transparency", None)  # a colour to be dropped like any other alpha
    mode = "L" if image.mode in _GREY_MODES else "RGB"
    if image.mode != mode:
        source, image = image, image.convert(mode)
        source.close()  # 100 MB at 25 megapixels
    array = np.array(image)
    if mode == "L":
        return array
    red = array[..., 0]
    if np.array_equal(red, array[..., 1]) and np.array_equal(red, array[..., 2]):
        return np.ascontiguousarray(red)
    return array
