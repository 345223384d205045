"""What a transfer study works on: a source task to pre-train on, and pairs of digits.

From MNIST and Fashion-MNIST files, or small and embedded: the 8 x 8 digits that scikit-learn ships,
enlarged, with the classes 4 to 7 as the source task and the others as targets.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np

from qgraft.data.idx import Digits, read_digits
from qgraft.errors import DataError

SIDE = 28
EMBEDDED_SOURCE = (4, 5, 6, 7)
EMBEDDED_TEST_SHARE = 3  # one digit in three is tested on


class TransferData(NamedTuple):
    """The parts of a transfer study.

    Attributes:
        source: images to pre-train on.
        training: images of the target task.
        test: images the target task is scored on.
        n_source_classes: classes of the source task.
    """

    source: Digits
    training: Digits
    test: Digits
    n_source_classes: int


def read_transfer_data(folder: Path, target: str = "mnist") -> TransferData:
    """Return Fashion-MNIST as the source and `target` as the target task.

    Args:
        folder: holds the folders `fashion-mnist` and `mnist` with four files each.
        target: `"mnist"` or `"fashion-mnist"`.

    Raises:
        DataError: a folder or file is missing or damaged.
    """
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder; it must hold mnist/ and fashion-mnist/")
    source = _square(read_digits(folder / "fashion-mnist", "train"), folder)
    training = _square(read_digits(folder / target, "train"), folder)
    test = _square(read_digits(folder / target, "test"), folder)
    return TransferData(source, training, test, 10)


def _square(digits: Digits, folder: Path) -> Digits:
    if digits.images.shape[1:] != (SIDE, SIDE):
        shape = " x ".join(map(str, digits.images.shape[1:]))
        raise DataError(f"the images in {folder} are {shape}; {SIDE} x {SIDE} are needed")
    return digits


def embedded_transfer_data() -> TransferData:
    """Return the small task made of scikit-learn's digits (UCI, 1,797 images of 8 x 8)."""
    from PIL import Image
    from sklearn.datasets import load_digits

    flat, labels = load_digits(return_X_y=True)
    pixels = np.clip(flat.reshape(-1, 8, 8) * (255 / 16), 0, 255).astype(np.uint8)
    images = np.stack(
        [
            np.asarray(Image.fromarray(p).resize((SIDE, SIDE), Image.Resampling.BILINEAR))
            for p in pixels
        ]
    )
    digits = Digits(images, labels.astype(np.int64))
    source = digits.only(EMBEDDED_SOURCE)
    source = Digits(source.images, source.labels - EMBEDDED_SOURCE[0])
    rest = digits.only(tuple(set(range(10)) - set(EMBEDDED_SOURCE)))
    tested = np.arange(len(rest.labels)) % EMBEDDED_TEST_SHARE == 0
    training, test = (Digits(rest.images[k], rest.labels[k]) for k in (~tested, tested))
    return TransferData(source, training, test, len(EMBEDDED_SOURCE))
