"""Box-free squares and defect crops, against brute force and the published counts."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qgraft.data.imageset import Box
from qgraft.data.neu_det import load_photographs
from qgraft.data.patches import crop_around, free_squares
from qgraft.errors import DataError

SHAPE = (24, 31)


@st.composite
def boxes(draw):
    x0, y0 = draw(st.integers(0, SHAPE[1] - 1)), draw(st.integers(0, SHAPE[0] - 1))
    x1, y1 = draw(st.integers(x0 + 1, SHAPE[1])), draw(st.integers(y0 + 1, SHAPE[0]))
    return Box(x0, y0, x1, y1, "scratches")


def largest_side_by_brute_force(blocked):
    height, width = blocked.shape
    for side in range(min(height, width), 0, -1):
        for y, x in itertools.product(range(height - side + 1), range(width - side + 1)):
            if not blocked[y : y + side, x : x + side].any():
                return side
    return 0


@settings(max_examples=60, deadline=None)
@given(st.lists(boxes(), max_size=5))
def test_each_square_is_the_largest_that_is_left(drawn):
    blocked = np.zeros(SHAPE, dtype=bool)
    for box in drawn:
        blocked[box.y0 : box.y1, box.x0 : box.x1] = True
    squares = free_squares(SHAPE, drawn, min_side=3, most=3)
    for square in squares:
        assert not square.cut(blocked).any()
        assert square.side == largest_side_by_brute_force(blocked)
        square.cut(blocked)[...] = True
    if len(squares) < 3:
        assert largest_side_by_brute_force(blocked) < 3


@settings(max_examples=100, deadline=None)
@given(boxes(), st.integers(4, 24), st.integers(0, 2**32))
def test_a_defect_crop_lies_inside_and_shows_half_of_what_it_can(box, side, seed):
    square = crop_around(box, side, SHAPE, np.random.default_rng(seed))
    assert square.side == side
    assert 0 <= square.x <= SHAPE[1] - side
    assert 0 <= square.y <= SHAPE[0] - side
    seen_w = min(square.x + side, box.x1) - max(square.x, box.x0)
    seen_h = min(square.y + side, box.y1) - max(square.y, box.y0)
    most = min(side, box.x1 - box.x0) * min(side, box.y1 - box.y0)
    assert seen_w > 0
    assert seen_h > 0
    assert seen_w * seen_h >= 0.5 * most


def test_a_crop_larger_than_the_photograph_is_refused():
    with pytest.raises(DataError, match="side 40 does not fit into a 31x24 photograph"):
        crop_around(Box(0, 0, 5, 5, "x"), 40, SHAPE, np.random.default_rng(0))


@pytest.mark.real_data
def test_counts_on_neu_det(real_data):
    """Images owning a box-free square of side >= s, and disjoint squares >= s, four classes."""
    photographs = load_photographs(real_data / "neu-det")
    found = [
        free_squares(image.shape, drawn)
        for image, drawn in zip(photographs.images, photographs.boxes, strict=True)
    ]
    expected = {
        32: (1196, 6968),
        48: (1161, 4008),
        64: (1039, 2269),
        80: (806, 1221),
        100: (455, 463),
        128: (165, 165),
    }
    for side, counts in expected.items():
        large = [sum(square.side >= side for square in squares) for squares in found]
        assert (sum(n > 0 for n in large), sum(large)) == counts
