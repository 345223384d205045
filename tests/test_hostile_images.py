"""Mutated images that get past the first checks: every outcome is an array or an `ImageError`."""

import io
import random
import resource
import struct
import time
import zlib

import numpy as np
import pytest
from PIL import Image

from qgraft.data.images import DATASET_FORMATS, TIFF_FORMATS, decode_image
from qgraft.errors import ImageError

RAMP = np.add.outer(np.arange(48) * 3, np.arange(64) * 2).astype(np.uint8)
COLOUR = np.stack([RAMP, RAMP[::-1], 255 - RAMP], axis=2)
MAGIC = b"\x89PNG\r\n\x1a\n"


def encoded(image, kind="PNG", **options):
    buffer = io.BytesIO()
    image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    image.save(buffer, kind, **options)
    return buffer.getvalue()


EXIF = Image.Exif()
EXIF[0x0112] = 6
ALPHA = np.concatenate([COLOUR, RAMP[..., None]], axis=2)
SEEDS = {
    "grey png": encoded(RAMP),
    "colour png": encoded(COLOUR),
    "alpha png": encoded(ALPHA),
    "palette png": encoded(Image.fromarray(COLOUR).quantize(16), transparency=bytes(range(16))),
    "16-bit png": encoded(RAMP.astype(np.uint16) * 257),
    "1-bit png": encoded(Image.fromarray(RAMP > 90)),
    "turned png": encoded(COLOUR, exif=EXIF),
    "grey jpeg": encoded(RAMP, "JPEG"),
    "colour jpeg": encoded(COLOUR, "JPEG", exif=EXIF),
    "progressive jpeg": encoded(COLOUR, "JPEG", progressive=True),
    "cmyk jpeg": encoded(Image.fromarray(COLOUR).convert("CMYK"), "JPEG"),
    "restarting jpeg": encoded(COLOUR, "JPEG", restart_marker_blocks=2),
    "bmp": encoded(COLOUR, "BMP"),
    "palette bmp": encoded(Image.fromarray(COLOUR).quantize(16), "BMP"),
    "tiff": encoded(RAMP, "TIFF"),
    "packed tiff": encoded(COLOUR, "TIFF", compression="tiff_adobe_deflate"),
}


def flipped(rng, data, start=0):
    """Change a few bytes from `start` on; sometimes cut the rest off."""
    changed = bytearray(data)
    for _ in range(rng.randint(1, 6)):
        if start < len(changed):
            changed[rng.randrange(start, len(changed))] = rng.choice(
                (0, 1, 127, 128, 255, rng.randrange(256))
            )
    if rng.random() < 0.1:
        del changed[rng.randrange(len(changed)) :]
    return bytes(changed)


def chunks(data):
    at = len(MAGIC)
    while at + 12 <= len(data):
        (length,) = struct.unpack(">I", data[at : at + 4])
        yield data[at + 4 : at + 8], data[at + 8 : at + 8 + length]
        at += 12 + length


def deep_png(rng, data):
    """Change chunks, mend their checksums and compress pixels again, so that decoders read on."""
    parts = list(chunks(data))
    at = rng.randrange(len(parts))
    kind, body = parts[at]
    choice = rng.random()
    if choice < 0.15:
        parts.insert(rng.randrange(len(parts)), parts[at])
    elif choice < 0.25:
        del parts[at]
    elif kind == b"IDAT" and choice < 0.8:
        parts[at] = kind, zlib.compress(flipped(rng, zlib.decompress(body)), 1)
    elif body:
        parts[at] = kind, flipped(rng, body)
    return MAGIC + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in parts
    )


def mutant(rng, name):
    data = SEEDS[name]
    if name.endswith("png") and rng.random() < 0.8:
        return deep_png(rng, data)
    if rng.random() < 0.1:  # two files in one
        other = SEEDS[rng.choice(list(SEEDS))]
        at = rng.randrange(len(data))
        return data[:at] + other[rng.randrange(len(other)) :]
    return flipped(rng, data, start=2)


def test_mutants_are_images_or_refused_in_bounded_time_and_memory(mutants):
    rng, images, slowest = random.Random(8), 0, 0.0
    number = mutants(14_000)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    names = list(SEEDS)
    for turn in range(number):
        name = names[turn % len(names)]
        formats = TIFF_FORMATS if name.endswith("tiff") else DATASET_FORMATS
        data = mutant(rng, name)
        start = time.process_time()
        try:
            image = decode_image(data, "x", formats=formats)
        except ImageError:
            pass
        else:
            images += 1
            assert image.dtype == np.uint8
            assert image.ndim == 2 or image.shape[2:] == (3,)
            assert image.size
        slowest = max(slowest, time.process_time() - start)
    assert 0.1 < images / number < 0.9
    assert slowest < 1
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300 * 1024


HTML = b"<html><script>alert(1)</script></html>"
POLYGLOTS = {
    "jpeg and html": SEEDS["grey jpeg"] + HTML,
    "png and zip": SEEDS["grey png"] + b"PK\x03\x04" + bytes(40),
    "jpeg with html inside": encoded(RAMP, "JPEG", comment=HTML),
    "png and png": SEEDS["grey png"] + SEEDS["colour png"],
    "bmp and pdf": SEEDS["bmp"] + b"%PDF-1.7",
}


@pytest.mark.parametrize("name", POLYGLOTS)
def test_what_lies_behind_an_image_is_not_part_of_it(name):
    image = decode_image(POLYGLOTS[name], "x")
    assert image.shape[:2] == RAMP.shape


@pytest.mark.parametrize("name", sorted(SEEDS))
def test_the_largest_sides_in_a_header_are_refused_before_decoding(name):
    """Write 2**15 and 2**31 - 1 over every pair of bytes of the header, one after the other."""
    formats = TIFF_FORMATS if name.endswith("tiff") else DATASET_FORMATS
    data = SEEDS[name]
    start = time.process_time()
    for at in range(2, min(len(data), 120) - 4, 2):
        for value in (b"\x7f\xff\xff\xff", b"\xff\xff\xff\x7f", b"\x80\x00", b"\xff\xff"):
            changed = data[:at] + value + data[at + len(value) :]
            if name.endswith("png"):
                ihdr = changed[12:29]
                changed = changed[:29] + struct.pack(">I", zlib.crc32(ihdr)) + changed[33:]
            try:
                image = decode_image(changed, "x", formats=formats)
            except ImageError:
                continue
            assert image.shape[0] * image.shape[1] <= 25_000_000
    assert time.process_time() - start < 30
