"""Reading NEU-DET and its look-alikes: layouts, quirks, damage."""

import zlib

import numpy as np
import pytest
from PIL import Image

from qgraft.data.neu_det import DEFECTS, load_photographs
from qgraft.errors import DataError

BOX = (
    "<object><name>{label}</name><bndbox><xmin>{x}</xmin><ymin>3</ymin><xmax>20</xmax>"
    "<ymax>25</ymax></bndbox></object>"
)


def write(images, annotations, stem, boxes=("scratches",), filename=None, seed=None):
    images.mkdir(parents=True, exist_ok=True)
    annotations.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(zlib.crc32(stem.encode()) if seed is None else seed)
    pixels = rng.integers(0, 255, (40, 50), dtype=np.uint8)
    Image.fromarray(pixels).convert("RGB").save(images / f"{stem}.jpg", quality=95)
    objects = "".join(BOX.format(label=label, x=1 + i // 2) for i, label in enumerate(boxes))
    (annotations / f"{stem}.xml").write_text(
        f"<annotation><filename>{filename or stem + '.jpg'}</filename><size><width>50</width>"
        f"<height>40</height><depth>1</depth></size>{objects}</annotation>"
    )


@pytest.mark.parametrize(("upper", "lower"), [("IMAGES", "ANNOTATIONS"), ("images", "Annotations")])
def test_flat_layout(tmp_path, upper, lower):
    for i in (10, 2, 1):
        write(tmp_path / upper, tmp_path / lower, f"rolled-in_scale_{i}")
    photographs = load_photographs(tmp_path)
    assert photographs.names == ("rolled-in_scale_1", "rolled-in_scale_2", "rolled-in_scale_10")
    assert set(photographs.defects) == {"rolled-in_scale"}
    assert photographs.images[0].shape == (40, 50)
    (box,) = photographs.boxes[0]
    assert (box.x0, box.y0, box.x1, box.y1) == (0, 2, 20, 25)


def test_train_and_validation_layout_with_class_folders(tmp_path):
    for part, numbers in (("train", (1, 2, 3)), ("validation", (4,))):
        for i in numbers:
            for defect in ("patches", "scratches"):
                images = tmp_path / part / "images" / defect
                write(images, tmp_path / part / "annotations", f"{defect}_{i}")
    photographs = load_photographs(tmp_path)
    assert len(photographs) == 8
    assert photographs.names[:4] == ("patches_1", "patches_2", "patches_3", "patches_4")


def test_the_two_classes_of_the_paper_are_dropped_and_can_be_chosen(tmp_path):
    for defect in DEFECTS:
        write(tmp_path / "IMAGES", tmp_path / "ANNOTATIONS", f"{defect}_1")
    assert len(load_photographs(tmp_path)) == 4
    chosen = load_photographs(tmp_path, classes=("crazing", "patches"))
    assert chosen.defects == ("crazing", "patches")
    with pytest.raises(DataError, match=r"no image of class 'rust' .* classes there: crazing"):
        load_photographs(tmp_path, classes=("rust",))


def test_quirks_become_findings(tmp_path):
    images, annotations = tmp_path / "IMAGES", tmp_path / "ANNOTATIONS"
    write(images, annotations, "scratches_1", boxes=("scratches", "inclusion", "scratches"), seed=1)
    write(images, annotations, "scratches_2", boxes=("scratches", "scratches"), seed=1)
    write(images, annotations, "scratches_3", filename="scratches_3", seed=2)
    photographs = load_photographs(tmp_path)
    text = "\n".join(photographs.findings)
    assert "1 boxes in 1 images carry another class" in text
    assert "1 boxes occur twice in their image" in text
    assert "1 annotations name their image without suffix" in text
    assert "1 images are copies of another: scratches_2 = scratches_1" in text
    assert [len(boxes) for boxes in photographs.boxes] == [3, 1, 1]


def test_every_unusable_file_is_named(tmp_path):
    images, annotations = tmp_path / "IMAGES", tmp_path / "ANNOTATIONS"
    for i in range(6):
        write(images, annotations, f"scratches_{i}")
    (images / "scratches_0.jpg").write_bytes((images / "scratches_0.jpg").read_bytes()[:300])
    (annotations / "scratches_1.xml").unlink()
    bomb = '<!DOCTYPE a [<!ENTITY b "bbbbbbbbbb">]><annotation>&b;</annotation>'
    (annotations / "scratches_2.xml").write_text(bomb)
    with pytest.raises(DataError) as caught:
        load_photographs(tmp_path)
    text = str(caught.value)
    assert text.startswith("3 of 6 images cannot be used")
    assert "--on-error skip" in text
    for name in ("scratches_0.jpg", "scratches_1.xml", "scratches_2.xml"):
        assert name in text
    photographs = load_photographs(tmp_path, on_error="skip")
    assert photographs.names == ("scratches_3", "scratches_4", "scratches_5")
    assert photographs.findings[0].startswith("3 images skipped")


def test_images_without_a_box_are_kept_as_normal(tmp_path):
    for i, boxes in enumerate(((), ("scratches",))):
        write(tmp_path / "IMAGES", tmp_path / "ANNOTATIONS", f"scratches_{i}", boxes=boxes)
    photographs = load_photographs(tmp_path)
    assert [len(boxes) for boxes in photographs.boxes] == [0, 1]
    assert "1 images have no box: they are used as normal ones only" in photographs.findings


def test_nothing_usable(tmp_path):
    with pytest.raises(DataError, match="is not a folder"):
        load_photographs(tmp_path / "none")
    with pytest.raises(DataError, match=r"no images with boxes in .* expected IMAGES"):
        load_photographs(tmp_path)
    write(tmp_path / "IMAGES", tmp_path / "ANNOTATIONS", "scratches_1")
    (tmp_path / "ANNOTATIONS" / "scratches_1.xml").write_text("x")
    with pytest.raises(DataError, match="no readable image of class 'scratches' is left"):
        load_photographs(tmp_path, on_error="skip")
    write(tmp_path / "train" / "images", tmp_path / "train" / "annotations", "scratches_1")
    with pytest.raises(DataError, match="1 image names occur twice"):
        load_photographs(tmp_path)
