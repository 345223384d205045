"""Hostile and ordinary image bytes: every outcome is an array or an `ImageError`."""

import io
import os
import random
import struct
import threading
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from qgraft.data.images import (
    DATASET_FORMATS,
    MAX_BYTES,
    SERVER_FORMATS,
    TIFF_FORMATS,
    as_channels,
    decode_image,
    read_image,
    resize,
)
from qgraft.errors import ConfigError, ImageError

RAMP = np.add.outer(np.arange(24) * 7, np.arange(32) * 2).astype(np.uint8)
COLOUR = np.stack([RAMP, RAMP[::-1], 255 - RAMP], axis=2)


def encoded(image: np.ndarray | Image.Image, kind: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def chunk(kind: bytes, content: bytes) -> bytes:
    crc = zlib.crc32(kind + content)
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", crc)


def png(width: int, height: int, *, depth: int = 8, colour: int = 0, pixels: bytes = b"") -> bytes:
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(pixels, 9)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def palette_image(**options) -> bytes:
    return encoded(Image.fromarray(COLOUR).quantize(16), **options)


# --- what must decode, and to what -------------------------------------------------------------


@pytest.mark.parametrize("kind", ["PNG", "BMP"])
@pytest.mark.parametrize("image", [RAMP, COLOUR], ids=["grey", "colour"])
def test_lossless_formats_round_trip(kind, image):
    np.testing.assert_array_equal(decode_image(encoded(image, kind), "x"), image)


def test_tiff_only_when_asked_for():
    data = encoded(COLOUR, "TIFF")
    np.testing.assert_array_equal(decode_image(data, "x", formats=TIFF_FORMATS), COLOUR)
    with pytest.raises(ImageError, match=r"x holds TIFF, allowed are JPEG, PNG, BMP; .*allow TIFF"):
        decode_image(data, "x")


def test_bmp_is_not_for_servers():
    with pytest.raises(ImageError, match="x holds BMP, allowed are JPEG, PNG; convert it to PNG"):
        decode_image(encoded(RAMP, "BMP"), "x", formats=SERVER_FORMATS)


def test_three_equal_channels_are_grey_exactly(tmp_path):
    data = encoded(np.repeat(RAMP[:, :, None], 3, axis=2), "JPEG", quality=60)
    with Image.open(io.BytesIO(data)) as stored:
        content = np.asarray(stored)
    assert (content == content[..., :1]).all()
    np.testing.assert_array_equal(decode_image(data, "x"), content[..., 0])
    (tmp_path / "x.jpg").write_bytes(data)
    np.testing.assert_array_equal(read_image(tmp_path / "x.jpg", channels=1), content[..., 0])
    np.testing.assert_array_equal(read_image(tmp_path / "x.jpg", channels=3), content)


def test_sixteen_bit_grey_maps_full_range_to_full_range():
    wide = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    expected = np.round(wide / 257).astype(np.uint8)
    np.testing.assert_array_equal(decode_image(encoded(wide), "x"), expected)
    tiff = decode_image(encoded(wide, "TIFF"), "x", formats=TIFF_FORMATS)
    np.testing.assert_array_equal(tiff, expected)


def test_sixteen_bit_colour_keeps_the_high_byte():
    pixels = b"\0" + struct.pack(">3H", 0x1234, 0xFFFF, 0x00FF)
    data = png(1, 1, depth=16, colour=2, pixels=pixels)
    np.testing.assert_array_equal(decode_image(data, "x"), [[[0x12, 0xFF, 0x00]]])


def test_one_bit_becomes_black_and_white():
    assert set(np.unique(decode_image(encoded(Image.fromarray(RAMP > 90)), "x"))) == {0, 255}


@pytest.mark.parametrize("transparency", [None, 3, bytes(range(16))])
def test_palette_becomes_colour(transparency):
    options = {} if transparency is None else {"transparency": transparency}
    expected = np.asarray(Image.fromarray(COLOUR).quantize(16).convert("RGB"))
    np.testing.assert_array_equal(decode_image(palette_image(**options), "x"), expected)


def test_alpha_is_dropped():
    alpha = RAMP[..., None]
    for image, expected in [(COLOUR, COLOUR), (RAMP[..., None], RAMP)]:
        data = encoded(np.concatenate([image, alpha], axis=2))
        np.testing.assert_array_equal(decode_image(data, "x"), expected)


def test_cmyk_becomes_colour():
    data = encoded(Image.fromarray(COLOUR).convert("CMYK"), "JPEG", quality=95)
    decoded = decode_image(data, "x").astype(int)
    assert np.abs(decoded - COLOUR).mean() < 6


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_exif_orientation_is_applied(orientation, kind):
    upright = np.kron(
        np.array([[10, 90, 170], [250, 130, 50]], np.uint8), np.ones((8, 8), np.uint8)
    )
    stored = {  # how a camera turned so would have written the scene (TIFF 6.0, Orientation)
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.T,
        6: np.rot90(upright, 1),
        7: upright[::-1, ::-1].T,
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(np.ascontiguousarray(stored), kind, exif=exif)
    decoded = decode_image(data, "x").astype(int)
    assert decoded.shape == upright.shape
    assert np.abs(decoded - upright).max() <= (0 if kind == "PNG" else 3)


def test_damaged_exif_does_not_reach_the_screen():
    data = encoded(RAMP, "JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\xff\xff" + b"\x12\x01" * 5)
    assert decode_image(data, "x").shape == RAMP.shape  # a warning would fail this test


# --- what must be refused ----------------------------------------------------------------------

GIF = encoded(RAMP, "GIF", save_all=True, append_images=[Image.fromarray(RAMP)])
APNG = encoded(RAMP, save_all=True, append_images=[Image.fromarray(255 - RAMP)])
MPO = encoded(COLOUR, "MPO", save_all=True, append_images=[Image.fromarray(COLOUR)])
TWO_PAGES = encoded(RAMP, "TIFF", save_all=True, append_images=[Image.fromarray(RAMP)])
FLOATS = encoded(Image.fromarray(RAMP.astype(np.float32)), "TIFF")

HOSTILE = {
    "empty": (b"", r"is empty \(0 bytes\)"),
    "text": (b"just text, renamed to .png", "holds no known image format"),
    "zeros": (bytes(4096), "holds no known image format"),
    "html": (b"<html><script>alert(1)</script></html>", "no known image format"),
    "svg": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "no known image format"),
    "pickle": (b"\x80\x04\x95\x10\x00\x00\x00\x00\x00\x00\x00", "no known image format"),
    "gif": (GIF, "holds GIF"),
    "webp": (b"RIFF\x24\0\0\0WEBPVP8 " + bytes(40), "holds WebP"),
    "pdf": (b"%PDF-1.7\n" + bytes(40), "holds PDF"),
    "gif before png": (GIF + encoded(RAMP), "holds GIF"),
    "png magic, jpeg body": (b"\x89PNG\r\n\x1a\n" + encoded(RAMP, "JPEG"), "is damaged"),
    "jpeg magic only": (b"\xff\xd8\xff", "is damaged .*not recognised"),
    "jpeg magic, png body": (b"\xff\xd8\xff\xe0" + encoded(RAMP), "is damaged"),
    "bmp magic only": (b"BM", "is damaged"),
    "bmp of zeros": (b"BM" + bytes(60), "is damaged"),
    "png bomb 9400": (png(9400, 9400, pixels=bytes(9401 * 40)), "9400 x 9400 pixels"),
    "png bomb 13000": (png(13000, 13000, pixels=bytes(13001)), "damaged|13000 x 13000"),
    "png bomb 20000": (png(20000, 20000), "decompression bomb"),
    "png 2**31 wide": (png(2**31 - 1, 2**31 - 1), "decompression bomb"),
    "long strip": (png(10_001, 1, pixels=bytes(10_002)), r"10001 x 1 pixels; allowed .* tiles"),
    "26 megapixels": (png(6500, 4000), "6500 x 4000 pixels; .* 25 megapixels"),
    "zero wide": (png(0, 5), "damaged|0 x 5"),
    "zero high": (png(5, 0), "damaged|5 x 0"),
    "zero bmp": (encoded(RAMP, "BMP")[:18] + bytes(8) + bytes(4000), "damaged|0 x 0"),
    "no pixels": (png(8, 8), "is damaged"),
    "bad filter": (png(8, 8, pixels=b"\x09" * 72), "is damaged"),
    "bad depth": (png(8, 8, depth=7, pixels=bytes(72)), "is damaged"),
    "text bomb": (
        encoded(RAMP)[:33]
        + chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(2**26), 9))
        + encoded(RAMP)[33:],
        "is damaged",
    ),
    "bad crc": (encoded(RAMP)[:29] + b"\0\0\0\0" + encoded(RAMP)[33:], "is damaged"),
    "animated png": (APNG, "holds 2 frames; save the one to use"),
    "stereo jpeg": (MPO, "holds 2 frames"),
    "65 scans": (encoded(RAMP, "JPEG") + b"\xff\xda" * 64, "has 65 JPEG scans, at most 64"),
    "over 20 MB": (encoded(RAMP) + bytes(MAX_BYTES), "larger than 20 MB; save it smaller"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_files_are_refused_cheaply(case):
    data, message = HOSTILE[case]
    tracemalloc.start()
    try:
        with pytest.raises(ImageError, match=f"^line-7.jpg.*({message})") as caught:
            decode_image(data, "line-7.jpg")
        assert tracemalloc.get_traced_memory()[1] < 50 * 2**20
    finally:
        tracemalloc.stop()
    assert "0x" not in str(caught.value)  # no addresses of objects


@pytest.mark.parametrize("data", [TWO_PAGES, FLOATS], ids=["two pages", "32-bit floats"])
def test_hostile_tiff(data):
    with pytest.raises(ImageError, match=r"holds 2 frames|32-bit pixels with no agreed white"):
        decode_image(data, "x", formats=TIFF_FORMATS)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP"])
@pytest.mark.parametrize("sixteenth", range(16))
def test_truncated_files_are_refused(kind, sixteenth):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8)
    data = encoded(noise, kind)
    with pytest.raises(ImageError, match=r"^x (is damaged|is empty|holds no known)"):
        decode_image(data[: len(data) * sixteenth // 16], "x")


@pytest.mark.parametrize(
    ("data", "share_refused"),
    [(encoded(COLOUR, "JPEG"), 0.15), (encoded(COLOUR), 0.8)],
    ids=["JPEG", "PNG"],
)
def test_mutants_decode_or_are_refused(data, share_refused):
    rng, refused, n = random.Random(7), 0, 3000
    for _ in range(n):
        mutant = bytearray(data)
        for _ in range(rng.randint(1, 8)):
            mutant[rng.randrange(len(mutant))] = rng.randrange(256)
        if rng.random() < 0.2:
            del mutant[rng.randrange(len(mutant)) :]
        try:
            image = decode_image(bytes(mutant), "x")
        except ImageError:
            refused += 1
        else:
            assert image.dtype == np.uint8
            assert image.ndim == 2 or image.shape[2:] == (3,)
    assert share_refused < refused / n < 1


def test_decoding_takes_a_few_bytes_a_pixel():
    data = encoded(Image.new("RGBA", (2000, 2000), (1, 2, 3, 4)), compress_level=1)
    tracemalloc.start()
    assert decode_image(data, "x").shape == (2000, 2000, 3)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 6.5 * 4_000_000  # and 4 of Pillow's own, not traced: 260 MB at the limit


def test_threads_do_not_disturb_each_other_or_the_warning_filters():
    import warnings

    before, data, failures = list(warnings.filters), encoded(COLOUR), []

    def work():
        for _ in range(200):
            try:
                assert decode_image(data, "x").shape == COLOUR.shape
            except Exception as error:
                failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert list(warnings.filters) == before


def test_a_whole_stream_with_too_few_rows_reads_as_black():
    """Pillow cannot tell this from an image; only a list of checksums can."""
    image = decode_image(png(8, 8, pixels=(b"\0" + b"\x63" * 8) * 4), "x")
    assert (image[:4] == 0x63).all()
    assert (image[4:] == 0).all()


# --- files, channels, sizes --------------------------------------------------------------------


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(ImageError, match=r"none\.png cannot be read \(No such file"):
        read_image(tmp_path / "none.png", channels=1)
    with pytest.raises(ImageError, match="is not a file; name an image file"):
        read_image(tmp_path, channels=1)
    with pytest.raises(ImageError, match=r"cannot be read \(embedded null byte\)"):
        read_image(Path("a\0.png"), channels=1)
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(ImageError, match="is not a file"):  # and does not wait for a writer
        read_image(tmp_path / "pipe.png", channels=1)
    with (tmp_path / "huge.png").open("wb") as huge:
        huge.truncate(2**33)  # sparse: 8 GB that are never read
    with pytest.raises(ImageError, match="larger than 20 MB"):
        read_image(tmp_path / "huge.png", channels=1)


def test_read_image_resizes_and_takes_tiff_by_flag(tmp_path):
    path = tmp_path / "x.tif"
    path.write_bytes(encoded(COLOUR, "TIFF"))
    assert read_image(path, channels=3, size=16, allow_tiff=True).shape == (16, 16, 3)
    assert read_image(path, channels=1, size=16, allow_tiff=True).shape == (16, 16)
    with pytest.raises(ImageError, match="holds TIFF"):
        read_image(path, channels=1)


def test_grey_from_colour_is_the_luma_of_bt601():
    expected = COLOUR @ np.array([0.299, 0.587, 0.114])
    assert np.abs(as_channels(COLOUR, 1) - expected).max() <= 0.51
    np.testing.assert_array_equal(as_channels(RAMP, 3), np.stack([RAMP] * 3, axis=2))
    with pytest.raises(ConfigError, match=r"channels must be 1 \(grey\) or 3 \(RGB\), got 4"):
        as_channels(RAMP, 4)  # type: ignore[arg-type]


def test_resize_halves_with_the_antialiased_triangle():
    line = np.random.default_rng(1).integers(0, 256, 16).astype(float)
    image = np.repeat(line[None].astype(np.uint8), 16, axis=0)
    padded = line[4 : 4 + 8]  # output pixel 3 reads inputs 5..8 with weights 1 3 3 1
    expected = (padded[1:5] * [1, 3, 3, 1]).sum() / 8
    assert abs(int(resize(image, 8)[2, 3]) - expected) <= 1
    np.testing.assert_array_equal(resize(RAMP[:24, :24].copy(), 24), RAMP[:24, :24])
    for size in (0, -3, 10_001):
        with pytest.raises(ConfigError, match=f"image size must be 1 to 10000 pixels, got {size}"):
            resize(RAMP, size)


@pytest.mark.real_data
def test_every_neu_det_photograph_is_grey(real_data):
    paths = sorted((real_data / "neu-det" / "IMAGES").glob("*.jpg"))
    assert len(paths) == 1800
    for path in paths[::20]:
        with Image.open(path) as stored:
            content = np.asarray(stored)
        assert content.shape == (200, 200, 3)
        np.testing.assert_array_equal(read_image(path, channels=1), content[..., 1])
    assert DATASET_FORMATS == ("JPEG", "PNG", "BMP")
