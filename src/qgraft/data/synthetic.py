"""The embedded data set: procedural hot-rolled steel with six kinds of defect, and their boxes.

Seeds go in, photographs come out; no file is read. A photograph is a clean surface times
`1 + layer`, where the layer holds the defects, plus sensor noise. Each painter returns one
defect as a small layer whose strongest pixel is near 1 (bright) or -1 (dark), drawn for steel
rolled from top to bottom; some photographs are turned afterwards. Names and looks of the
defects follow NEU-DET (He, Song, Meng and Yan, IEEE TIM 69(4), 2020); no pixel comes from it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from qgraft.data.imageset import Box, Photographs
from qgraft.errors import ConfigError
from qgraft.seeds import numpy_rng

Painter = Callable[[np.random.Generator, int], np.ndarray]

SMALLEST_SIZE = 96
_FAINTEST = 0.06  # below this share of a defect's strength nothing is painted, and no box drawn
_GAP = 3  # pixels kept between two boxes


def synthetic_steel(per_defect: int = 40, *, size: int = 200, seed: int = 0) -> Photographs:
    """Make grey photographs of rolled steel, `per_defect` of each of the six defect classes.

    Each photograph depends on `(seed, class, number, size)` alone, so a smaller set is a
    prefix, class by class, of a larger one.

    Args:
        per_defect: photographs of each class, at least 1.
        size: width and height in pixels, at least 96.
        seed: any integer; the same seed gives the same bytes.

    Raises:
        ConfigError: if `per_defect` or `size` is too small.
    """
    if per_defect < 1:
        raise ConfigError(f"per_defect must be 1 or more, got {per_defect}; try 40")
    if size < SMALLEST_SIZE:
        raise ConfigError(f"size must be {SMALLEST_SIZE} pixels or more, got {size}; try 200")
    keys = [(defect, number) for defect in DEFECTS for number in range(1, per_defect + 1)]
    shots = [_photograph(seed, defect, number, size) for defect, number in keys]
    return Photographs(
        images=tuple(shot.image for shot in shots),
        defects=tuple(defect for defect, _ in keys),
        boxes=tuple(shot.boxes for shot in shots),
        names=tuple(f"{defect}_{number}" for defect, number in keys),
        findings=(f"procedural steel surfaces (seed {seed}), not photographs of real steel",),
    )


class _Shot(NamedTuple):
    image: np.ndarray
    clean: np.ndarray  # the same surface and the same noise without the defects
    boxes: tuple[Box, ...]


def _photograph(seed: int, defect: str, number: int, size: int) -> _Shot:
    rng = numpy_rng(seed, f"synthetic steel {defect}", number, size)
    surface = _surface(rng, size)
    layer, boxes = _paint(rng, defect, surface)
    noise = rng.uniform(0.8, 2.5) * _texture(rng, size, size, 0.5, 0.5)
    image, clean = (_develop(grey + noise) for grey in (surface * (1 + layer), surface))
    if rng.random() < 0.2:  # the strip ran from left to right
        image, clean = image.T, clean.T
        boxes = [Box(b.y0, b.x0, b.y1, b.x1, b.label) for b in boxes]
    return _Shot(np.ascontiguousarray(image), np.ascontiguousarray(clean), tuple(boxes))


def _develop(grey: np.ndarray) -> np.ndarray:
    return np.rint(grey).clip(0, 255).astype(np.uint8)


def _texture(
    rng: np.random.Generator, height: int, width: int, along: float, across: float
) -> np.ndarray:
    """Return Gaussian noise of unit variance, smoothed `along` and `across` the rolling."""
    # More is made than asked for, because the transform wraps around; sixteens make it fast.
    rows, columns = (-(-n // 16) * 16 for n in (height + int(2 * along), width + int(2 * across)))
    down = np.exp(-2 * (np.pi * along * np.fft.fftfreq(rows)) ** 2)
    right = np.exp(-2 * (np.pi * across * np.fft.rfftfreq(columns)) ** 2)
    gain = np.outer(down, right[right > 1e-3]).astype(np.float32)  # the rest would not be seen
    real, imaginary = rng.standard_normal((2, *gain.shape), dtype=np.float32)
    spectrum = gain * (real + np.complex64(1j) * imaginary)
    field = np.fft.irfft2(spectrum, s=(rows, columns))[:height, :width]
    return (field - field.mean()) / (field.std() + 1e-9)


def _ramp(field: np.ndarray, width: float) -> np.ndarray:
    """Return a soft step: 0 below 0, 1 above `width`."""
    t = (field / width).clip(0, 1)
    return t * t * (3 - 2 * t)


def _grid(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Return row and column coordinates, -1 to 1 over the layer."""
    return np.linspace(-1, 1, height)[:, None], np.linspace(-1, 1, width)[None, :]


def _pixels(rng: np.random.Generator, size: int, low: float, high: float) -> int:
    """Return a length drawn between two lengths stated for 200-pixel photographs."""
    return round(rng.uniform(low, high) * size / 200)


def _surface(rng: np.random.Generator, size: int) -> np.ndarray:
    """Return clean rolled steel `(size, size)`: light, bands, clouds, grain and harmless marks."""

    def texture(along: float, across: float) -> np.ndarray:
        return _texture(rng, size, size, along, across)

    y, x = _grid(size, size)
    angle = rng.uniform(0, 2 * np.pi)
    light = rng.uniform(0, 0.3) * (np.cos(angle) * x + np.sin(angle) * y)
    light = light - rng.uniform(-0.03, 0.15) * ((x - rng.uniform(-1, 1)) ** 2 - 0.6)
    bands = rng.uniform(0.01, 0.07) * texture(70, rng.uniform(5, 20))
    lines = rng.uniform(0.003, 0.015) * texture(rng.uniform(20, 60), rng.uniform(0.7, 2))
    clouds = rng.uniform(0.01, 0.05) * texture(rng.uniform(10, 30), rng.uniform(8, 16))
    roughness = np.exp(rng.uniform(np.log(0.015), np.log(0.09)))
    fine = texture(rng.uniform(0.5, 1.0), rng.uniform(0.5, 1.0))
    drawn = texture(*rng.permutation([rng.uniform(1.5, 5), rng.uniform(0.6, 1)]))
    coarse = texture(rng.uniform(3, 6), rng.uniform(2, 4))
    shares = rng.uniform((0.5, 0.2, 0.1), (0.9, 0.9, 0.4))
    grain = roughness * np.tensordot(shares, np.stack([fine, drawn, coarse]), 1)
    relief = light + bands + lines + clouds + grain - roughness * _marks(rng, size)
    return rng.uniform(80, 180) * (1 + relief - relief.mean()).clip(0.2)


def _marks(rng: np.random.Generator, size: int) -> np.ndarray:
    """Return what every mill leaves on good steel: soft stains and a few specks."""
    stains = _ramp(_texture(rng, size, size, 14, 9) - rng.uniform(1.2, 2.5), 2.0)
    specks = _ramp(_texture(rng, size, size, 2, 1.3) - rng.uniform(3.0, 3.9), 0.6)
    return rng.uniform(0, 2) * stains + rng.uniform(0.5, 3) * specks


def _crazing(rng: np.random.Generator, size: int) -> np.ndarray:
    """Paint a broken network of jagged dark cracks: level lines of a rough field."""
    h, w = _pixels(rng, size, 50, 110), _pixels(rng, size, 60, 150)
    y, x = _grid(h, w)
    layer = np.zeros((h, w))
    for _ in range(2):
        field = _texture(rng, h, w, 7, 14) + 0.25 * _texture(rng, h, w, 1.3, 2.2)
        down, right = np.gradient(field)
        slope = np.hypot(down, right)
        width = 0.6 + 1.4 * _ramp(_texture(rng, h, w, 2, 4), 2.0)
        cracks = np.exp(-((field / (slope + 0.03) / width) ** 2))
        broken = _ramp(_texture(rng, h, w, 4, 8) + rng.uniform(-0.1, 0.5), 1.0)
        layer = np.maximum(layer, cracks * broken)
    nodes = _ramp(_texture(rng, h, w, 1.8, 2.4) - 2.0, 1.0)
    return -np.maximum(layer, nodes) * _ramp(1 - y**4 - x**4, 0.5)


def _inclusion(rng: np.random.Generator, size: int) -> np.ndarray:
    """Paint a bundle of dark spindles drawn out along the rolling direction."""
    h, w = _pixels(rng, size, 30, 180), _pixels(rng, size, 18, 50)
    y, x = _grid(h, w)
    field = np.full((h, w), -9.0)
    for _ in range(rng.integers(1, 5)):
        length, half = rng.uniform(0.3, 0.8), rng.uniform(0.2, 0.5)
        u = (y - rng.uniform(-1, 1) * (0.85 - length)) / length
        v = (x - rng.uniform(-1, 1) * (0.8 - half) - 0.15 * u * rng.normal()) / half
        field = np.maximum(field, 1 - u**2 - np.abs(v) ** 1.5)
    ragged = field + 0.35 * _texture(rng, h, w, 7, 1.2)
    body = _ramp(ragged, rng.uniform(0.6, 1.4)) * _ramp(1 - y**6 - x**6, 0.6)
    return -body * (1 + 0.15 * _texture(rng, h, w, 9, 1)).clip(0.5, 1.2)


def _patch(rng: np.random.Generator, size: int) -> np.ndarray:
    """Paint an irregular blotch with a ragged edge, darker or lighter than the strip."""
    h, w = _pixels(rng, size, 40, 130), _pixels(rng, size, 36, 85)
    y, x = _grid(h, w)
    lean = x - rng.uniform(-0.4, 0.4) * y - 0.25 * np.sin(rng.uniform(1, 4) * y + rng.normal())
    field = 0.75 - (np.abs(lean) ** 3 + np.abs(y) ** 4)
    ragged = 0.2 * _texture(rng, h, w, 9, 7) + 0.07 * _texture(rng, h, w, 2.5, 1.5)
    body = _ramp(field + ragged, rng.uniform(0.5, 1.1)) * _ramp(1 - y**4 - x**4, 0.8)
    mottle = 1 + 0.12 * _texture(rng, h, w, 4, 4)
    return rng.choice([-1.0, 0.7], p=[0.6, 0.4]) * body * mottle.clip(0.5, 1.2)


def _pits(rng: np.random.Generator, size: int) -> np.ndarray:
    """Paint a field of small dark pits, dense at its heart and sparse at its rim."""
    h, w = _pixels(rng, size, 60, 170), _pixels(rng, size, 50, 120)
    y, x = _grid(h, w)
    pit = rng.uniform(0.9, 1.7)
    dots = _texture(rng, h, w, 1.2 * pit, pit) + 0.35 * _texture(rng, h, w, 20, 6)
    rarity = rng.uniform(0.0, 1.0) + 1.2 * (x**4 + y**4)
    return -_ramp(dots - rarity, 1.8) * _ramp(1 - y**6 - x**6, 0.5)


def _scale(rng: np.random.Generator, size: int) -> np.ndarray:
    """Paint dark ragged flakes of scale in clusters, on steel slightly brightened by pressing."""
    h, w = _pixels(rng, size, 30, 110), _pixels(rng, size, 35, 90)
    y, x = _grid(h, w)
    clusters = 0.6 * _texture(rng, h, w, 6, 6) - 0.7 * (x**2 + y**2)
    flakes = _texture(rng, h, w, 1.5, 3.0) + 0.5 * _texture(rng, h, w, 0.7, 1.0) + clusters
    dark = _ramp(flakes + rng.uniform(-0.5, 0.2), 2.6)
    halo = 0.25 * _ramp(clusters + 0.7, 2.0) * (1 - dark)
    return (halo - dark) * _ramp(1 - y**4 - x**4, 0.7)


def _scratch(rng: np.random.Generator, size: int) -> np.ndarray:
    """Paint bright tapered lines side by side, beaded by chatter, each with its burr's shadow."""
    length, tilt = rng.uniform(40, 200) * size / 200, rng.normal(0, 0.05)
    if rng.random() < 0.35:
        tilt = rng.choice([np.pi / 2 + rng.normal(0, 0.04), rng.uniform(-0.6, 0.6)])
    count = rng.integers(2, 5) if rng.random() < 0.4 else 1
    spacing = rng.uniform(3, 6)
    margin = int(6 + 0.5 * spacing * count)
    h, w = (int(abs(f(tilt)) * length) + 2 * margin for f in (np.cos, np.sin))
    y, x = np.arange(h)[:, None] - h / 2, np.arange(w)[None, :] - w / 2
    u = (y * np.cos(tilt) + x * np.sin(tilt)) / (length / 2)
    v = x * np.cos(tilt) - y * np.sin(tilt) - rng.normal(0, 1.2) * u**2
    place = ((u + 1) / 2 * 199).clip(0, 199).astype(int)
    layer = np.zeros((h, w))
    for line in range(count):
        beads = _texture(rng, 200, 1, 1.0, 0.1) + 2 * _texture(rng, 200, 1, 15, 0.1)
        width = rng.uniform(0.8, 2.4) * (0.5 + 0.5 * (1 - u**2).clip(0))
        off = v - (line - (count - 1) / 2) * spacing + 0.12 * beads[place, 0]
        taper = _ramp(1 - np.abs(u), rng.uniform(0.05, 0.7))
        shine = taper * (0.7 + 0.2 * beads[place, 0]).clip(0.1, 1.2) * rng.uniform(0.5, 1)
        layer += shine * np.exp(-((off / width) ** 2))
        layer -= 0.3 * shine * np.exp(-(((off - 2.2 * width) / width) ** 2))
    return layer


class _Defect(NamedTuple):
    painter: Painter
    most: int  # instances in one photograph
    strength: tuple[float, float]  # contrast in units of the surface's roughness
    limit: float  # greatest contrast as a share of the surface's brightness


DEFECTS: dict[str, _Defect] = {
    "crazing": _Defect(_crazing, 3, (4.0, 10.0), 0.75),
    "inclusion": _Defect(_inclusion, 4, (4.0, 11.0), 0.65),
    "patches": _Defect(_patch, 3, (5.0, 14.0), 0.75),
    "pitted_surface": _Defect(_pits, 2, (4.0, 10.0), 0.65),
    "rolled-in_scale": _Defect(_scale, 3, (5.0, 12.0), 0.7),
    "scratches": _Defect(_scratch, 3, (8.0, 30.0), 1.5),
}


def _paint(
    rng: np.random.Generator, defect: str, surface: np.ndarray
) -> tuple[np.ndarray, list[Box]]:
    """Return the layer of all defects of one photograph, and a tight box around each."""
    from scipy.ndimage import gaussian_filter

    kind = DEFECTS[defect]
    size = len(surface)
    roughness = float(np.std(surface / gaussian_filter(surface, 6) - 1)) + 0.02
    layer, boxes = np.zeros_like(surface), []
    wanted, tries = rng.integers(1, kind.most + 1), 0
    while not boxes or (len(boxes) < wanted and tries < 4 * wanted):
        tries += 1
        seen = gaussian_filter(kind.painter(rng, size), rng.uniform(0.5, 0.8))  # through a lens
        piece = _place(rng, seen, size)
        contrast = min(roughness * rng.uniform(*kind.strength), kind.limit)
        box = _tight_box(piece, defect)
        if box is None or any(_touch(box, other) for other in boxes):
            continue
        boxes.append(box)
        layer += contrast * piece
    return layer, boxes


def _place(rng: np.random.Generator, patch: np.ndarray, size: int) -> np.ndarray:
    """Return an empty layer with `patch` somewhere in it, up to a fifth of it over the edge."""
    piece = np.zeros((size, size))
    spans = []
    for extent in patch.shape:
        start = int(rng.integers(-extent // 5, max(size - extent + extent // 5, 1)))
        inside = slice(max(start, 0), min(start + extent, size))
        spans.append((inside, slice(inside.start - start, inside.stop - start)))
    (rows, patch_rows), (columns, patch_columns) = spans
    piece[rows, columns] = patch[patch_rows, patch_columns]
    return np.where(np.abs(piece) < _FAINTEST, 0, piece)


def _tight_box(piece: np.ndarray, label: str) -> Box | None:
    rows, columns = np.flatnonzero(piece.any(axis=1)), np.flatnonzero(piece.any(axis=0))
    if max(len(rows), len(columns)) < 12 or min(len(rows), len(columns)) < 4:  # hardly seen
        return None
    return Box(int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1, label)


def _touch(a: Box, b: Box) -> bool:
    apart_x = a.x0 >= b.x1 + _GAP or b.x0 >= a.x1 + _GAP
    apart_y = a.y0 >= b.y1 + _GAP or b.y0 >= a.y1 + _GAP
    return not (apart_x or apart_y)
