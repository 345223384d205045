"""The embedded steel set: reproducible, honestly boxed, and without a brightness shortcut."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from qgraft.data.imageset import Box, Photographs
from qgraft.data.patches import crop_around, free_squares
from qgraft.data.synthetic import DEFECTS, _photograph, _texture, synthetic_steel
from qgraft.errors import ConfigError

NEU_DET = ["crazing", "inclusion", "patches", "pitted_surface", "rolled-in_scale", "scratches"]


@pytest.fixture(scope="module")
def steel() -> Photographs:
    return synthetic_steel(12)


def inside_boxes(boxes: tuple[Box, ...], size: int = 200) -> np.ndarray:
    mask = np.zeros((size, size), dtype=bool)
    for box in boxes:
        mask[box.y0 : box.y1, box.x0 : box.x1] = True
    return mask


def test_photographs_have_the_shape_and_names_of_the_real_set(steel: Photographs) -> None:
    assert len(steel) == len(steel.images) == 72
    assert {(image.shape, image.dtype.name) for image in steel.images} == {((200, 200), "uint8")}
    assert Counter(steel.defects) == dict.fromkeys(NEU_DET, 12)
    assert len(set(steel.names)) == 72
    assert "scratches_7" in steel.names
    assert "not photographs of real steel" in steel.findings[0]
    for defect, boxes in zip(steel.defects, steel.boxes, strict=True):
        assert 1 <= len(boxes) <= 4
        assert {box.label for box in boxes} == {defect}


def test_same_seed_same_bytes_and_a_small_set_is_a_prefix_of_a_large_one(
    steel: Photographs,
) -> None:
    few = synthetic_steel(3)
    at = [steel.names.index(name) for name in few.names]
    assert np.array_equal(np.stack(few.images), np.stack([steel.images[i] for i in at]))
    assert few.boxes == tuple(steel.boxes[i] for i in at)
    assert few.names[:4] == ("crazing_1", "crazing_2", "crazing_3", "inclusion_1")


def test_another_seed_gives_other_photographs(steel: Photographs) -> None:
    other = synthetic_steel(1, seed=1)
    for image, name in zip(other.images, other.names, strict=True):
        assert (image != steel.images[steel.names.index(name)]).mean() > 0.9


@pytest.mark.parametrize("size", [96, 131, 200])
@pytest.mark.parametrize("defect", NEU_DET)
def test_boxes_hold_every_changed_pixel_and_are_tight(defect: str, size: int) -> None:
    for number in range(1, 7):
        image, clean, boxes = _photograph(5, defect, number, size)
        changed = image != clean
        assert image.shape == clean.shape == (size, size)
        assert not changed[~inside_boxes(boxes, size)].any()
        for box in boxes:
            assert 0 <= box.x0 < box.x1 <= size
            assert 0 <= box.y0 < box.y1 <= size
            rows, columns = np.nonzero(changed[box.y0 : box.y1, box.x0 : box.x1])
            height, width = box.y1 - box.y0, box.x1 - box.x0
            assert max(rows.min(), height - 1 - rows.max()) <= 1
            assert max(columns.min(), width - 1 - columns.max()) <= 1


@pytest.mark.parametrize("defect", NEU_DET)
def test_boxes_of_one_photograph_are_disjoint(steel: Photographs, defect: str) -> None:
    for boxes in (b for b, d in zip(steel.boxes, steel.defects, strict=True) if d == defect):
        areas = sum((box.x1 - box.x0) * (box.y1 - box.y0) for box in boxes)
        assert inside_boxes(boxes).sum() == areas


@pytest.mark.parametrize(
    ("defect", "sign"), [("crazing", -1), ("inclusion", -1), ("pitted_surface", -1),
                         ("rolled-in_scale", -1), ("scratches", 1)]
)  # fmt: skip
def test_strongest_pixels_are_darker_or_brighter_as_the_class_is(defect: str, sign: int) -> None:
    for number in range(1, 5):
        image, clean, _ = _photograph(0, defect, number, 200)
        change = image.astype(int) - clean
        assert sign * change.flat[np.abs(change).argmax()] >= 8


def test_patches_come_darker_and_lighter() -> None:
    shots = [_photograph(0, "patches", number, 200) for number in range(1, 13)]
    changes = [int(shot.image.sum(dtype=int) - shot.clean.sum(dtype=int)) for shot in shots]
    assert min(changes) < 0 < max(changes)


def test_room_for_normal_crops(steel: Photographs) -> None:
    for defect in ("inclusion", "patches", "rolled-in_scale", "scratches"):
        mine = [b for b, d in zip(steel.boxes, steel.defects, strict=True) if d == defect]
        sides = [[s.side for s in free_squares((200, 200), boxes, min_side=40)] for boxes in mine]
        assert np.mean([bool(s) for s in sides]) >= 0.9
        assert np.mean([max(s, default=0) >= 64 for s in sides]) >= 0.8


def test_brightness_does_not_tell_defective_crops_from_normal_ones(steel: Photographs) -> None:
    rng = np.random.default_rng(0)
    means, labels = [], []
    for image, boxes in zip(steel.images, steel.boxes, strict=True):
        squares = [s for s in free_squares(image.shape, boxes, min_side=40, most=3)]
        crops = [square.cut(image) for square in squares]
        crops += [crop_around(box, 70, image.shape, rng).cut(image) for box in boxes]
        means += [float(crop.mean()) for crop in crops]
        labels += [0] * len(squares) + [1] * len(boxes)
    assert 0.4 < roc_auc_score(labels, means) < 0.6


def test_light_and_grain_do_not_depend_on_the_class() -> None:
    clean = {
        defect: np.stack([_photograph(2, defect, n, 96).clean for n in range(1, 31)])
        for defect in DEFECTS
    }
    brightness = [images.mean() for images in clean.values()]
    contrast = [images.std(axis=(1, 2)).mean() for images in clean.values()]
    # 30 photographs of brightness uniform in 80..180: a class mean strays 5.3 at one sigma
    assert np.ptp(brightness) < 6 * 5.3
    assert max(contrast) < 1.6 * min(contrast)
    per_photo = np.concatenate([images.mean(axis=(1, 2)) for images in clean.values()])
    assert per_photo.std() > 20


def test_texture_is_normalised_and_drawn_out_along_the_rolling() -> None:
    field = _texture(np.random.default_rng(0), 160, 120, 12.0, 1.0)
    assert field.shape == (160, 120)
    assert field.mean() == pytest.approx(0, abs=1e-5)
    assert field.std() == pytest.approx(1, abs=1e-5)
    along, across = (np.abs(np.diff(field, axis=axis)).mean() for axis in (0, 1))
    assert across > 5 * along


@pytest.mark.parametrize("per_defect", [0, -3])
def test_refuses_an_empty_set(per_defect: int) -> None:
    with pytest.raises(ConfigError, match=f"per_defect must be 1 or more, got {per_defect}"):
        synthetic_steel(per_defect)


def test_refuses_photographs_too_small_for_the_defects() -> None:
    with pytest.raises(ConfigError, match="size must be 96 pixels or more, got 95"):
        synthetic_steel(1, size=95)


@pytest.mark.real_data
def test_real_photographs_lie_inside_the_range_of_the_synthetic_ones(real_data: Path) -> None:
    from PIL import Image

    files = [real_data / "neu-det/IMAGES" / f"{d}_{n}.jpg" for d in NEU_DET for n in (1, 90, 180)]
    real = np.array([np.asarray(Image.open(f).convert("L"), float).mean() for f in files])
    made = np.stack(synthetic_steel(3).images).mean(axis=(1, 2))
    assert made.min() < np.median(real) < made.max()
