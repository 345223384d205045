"""Photographs of things as ImageNet networks take them: the centre cut out, or squeezed whole."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from qgraft.data.folders import LoadedImages, image_set, list_images
from qgraft.data.images import read_image, resize

SHORT_SIDE = 256 / 224  # of the side of the crop, as torchvision's presets have it


def centre_crop(image: np.ndarray, side: int) -> np.ndarray:
    """Return the centre `(side, side, 3)` of an image `(h, w, 3)` resized to 8/7 of that."""
    height, width = image.shape[:2]
    scale = side * SHORT_SIDE / min(height, width)
    size = max(side, round(width * scale)), max(side, round(height * scale))
    resized = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BILINEAR))
    left, top = (size[0] - side) // 2, (size[1] - side) // 2
    return resized[top : top + side, left : left + side]


def load_views(root: Path, side: int) -> LoadedImages:
    """Load every labelled image at `root` in colour as two squares side by side.

    The left one is the centre, the right one the whole picture, squeezed: `(n, side, 2 side, 3)`.

    Raises:
        DataError: the layout or a file is wrong.
    """
    folder, entries, findings = list_images(root)

    def views(name: str) -> np.ndarray:
        image = read_image(folder / name, channels=3)
        return np.concatenate([centre_crop(image, side), resize(image, side)], axis=1)

    images = np.stack([views(entry.name) for entry in entries])
    split = tuple(entry.split for entry in entries if entry.split)
    return LoadedImages(image_set(images, entries, None, findings), split or None)
