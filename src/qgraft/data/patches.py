"""Square crops of boxed photographs: free of every box, or around one.

The networks see crops resized to one side, so how far a crop was magnified is visible in its
blur. `free_squares` finds the normal crops; `crop_around` cuts a defect at a wanted side, so a
protocol can give both classes the same sides.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from qgraft.data.imageset import Box
from qgraft.errors import DataError


class Square(NamedTuple):
    """A square crop: top-left corner and side in pixels."""

    x: int
    y: int
    side: int

    def cut(self, image: np.ndarray) -> np.ndarray:
        """Return the pixels of `image` `(h, w)` inside the square."""
        return image[self.y : self.y + self.side, self.x : self.x + self.side]


def free_squares(
    shape: tuple[int, int], boxes: Sequence[Box], *, min_side: int = 32, most: int = 8
) -> list[Square]:
    """Return disjoint box-free squares, each the largest that is left, largest first.

    The search is exact: whether a free square of side s exists is monotone in s, so the largest
    side is found by bisection over window sums, and the topmost-leftmost such square is taken.
    """
    blocked = np.zeros(shape, dtype=bool)
    for box in boxes:
        blocked[box.y0 : box.y1, box.x0 : box.x1] = True
    found: list[Square] = []
    largest = min(shape)
    while len(found) < most:
        square = _largest_free_square(blocked, largest, min_side)
        if square is None:
            break
        found.append(square)
        square.cut(blocked)[...] = True
        largest = square.side
    return found


def _largest_free_square(blocked: np.ndarray, largest: int, smallest: int) -> Square | None:
    height, width = blocked.shape
    sums = np.zeros((height + 1, width + 1), dtype=np.int32)
    sums[1:, 1:] = blocked.cumsum(0, dtype=np.int32).cumsum(1, dtype=np.int32)

    def free_corner(side: int) -> Square | None:
        windows = sums[side:, side:] - sums[:-side, side:] - sums[side:, :-side]
        corner = int(np.argmin(windows + sums[:-side, :-side]))
        y, x = divmod(corner, width - side + 1)
        return None if blocked[y : y + side, x : x + side].any() else Square(x, y, side)

    best, low, high = None, smallest, min(largest, height, width)
    while low <= high:
        side = (low + high) // 2
        square = free_corner(side)
        if square is None:
            high = side - 1
        else:
            best, low = square, side + 1
    return best


def crop_around(
    box: Box, side: int, shape: tuple[int, int], rng: np.random.Generator, *, tries: int = 64
) -> Square:
    """Return a square of `side` inside the photograph that shows at least half of what it can.

    The most a square of this side can show of the box is `min(side, width) * min(side, height)`;
    positions are drawn uniformly until at least half of that is inside.

    Raises:
        DataError: the square does not fit into the photograph.
    """
    height, width = shape
    if side > min(shape):
        raise DataError(f"a crop of side {side} does not fit into a {width}x{height} photograph")
    box_w, box_h = box.x1 - box.x0, box.y1 - box.y0
    wanted = 0.5 * min(side, box_w) * min(side, box_h)
    x_low, x_high = _reach(box.x0, box.x1, side, width)
    y_low, y_high = _reach(box.y0, box.y1, side, height)
    for _ in range(tries):
        x = int(rng.integers(x_low, x_high + 1))
        y = int(rng.integers(y_low, y_high + 1))
        seen_w = min(x + side, box.x1) - max(x, box.x0)
        seen_h = min(y + side, box.y1) - max(y, box.y0)
        if seen_w > 0 and seen_h > 0 and seen_w * seen_h >= wanted:
            return Square(x, y, side)
    centre_x, centre_y = (box.x0 + box.x1 - side) // 2, (box.y0 + box.y1 - side) // 2
    return Square(min(max(centre_x, 0), width - side), min(max(centre_y, 0), height - side), side)


def _reach(start: int, stop: int, side: int, length: int) -> tuple[int, int]:
    """Return the first and last position at which a window of `side` overlaps [start, stop)."""
    return max(0, start - side + 1), min(length - side, stop - 1)
