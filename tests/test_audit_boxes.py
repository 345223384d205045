"""Each fault of boxes and annotations is planted and found; clean drawings give no finding."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qgraft.data.annotations import read_drawn_boxes
from qgraft.data.imageset import Box
from qgraft.data.synthetic import synthetic_steel
from qgraft.errors import AnnotationError
from qgraft.evaluation.audit.boxes import Drawing, box_findings, overlap

SCRATCH = Box(10, 10, 60, 30, "scratches")
STAIN = Box(70, 50, 95, 90, "patches")
CLEAN = (
    Drawing("scratches_1", "scratches", (100, 100), (100, 100), "scratches_1.jpg", (SCRATCH,)),
    Drawing("patches_1", "patches", (100, 100), (100, 100), "patches_1", (STAIN,)),
)


def findings_with(**changes):
    """Return the findings of a clean set in which the first drawing is changed."""
    return list(box_findings([replace(CLEAN[0], **changes), CLEAN[1]]))


def test_clean_drawings_give_no_finding():
    assert list(box_findings(CLEAN)) == []
    assert list(box_findings([])) == []
    assert findings_with(boxes=()) == []


@pytest.mark.parametrize("seed", range(3))
def test_embedded_set_gives_no_finding(seed):
    p = synthetic_steel(12, size=120, seed=seed)
    drawings = [
        Drawing(name, defect, (120, 120), (120, 120), f"{name}.png", boxes)
        for name, defect, boxes in zip(p.names, p.defects, p.boxes, strict=True)
    ]
    assert list(box_findings(drawings)) == []


PLANTED = {
    "mislabelled": (
        (SCRATCH, STAIN),
        "mislabelled_boxes",
        "scratches_1 box 2: patches",
    ),
    "left of the image": (
        (Box(-1, 10, 60, 30, "scratches"),),
        "boxes_outside",
        "scratches_1 box 1: scratches 0 11 60 30",
    ),
    "below the image": (
        (SCRATCH, Box(10, 80, 60, 101, "scratches")),
        "boxes_outside",
        "scratches_1 box 2: scratches 11 81 60 101",
    ),
    "no area": (
        (SCRATCH, Box(30, 40, 30, 60, "scratches")),
        "tiny_boxes",
        "scratches_1 box 2: scratches 0 x 20 pixels",
    ),
    "corners swapped": (
        (Box(60, 10, 10, 30, "scratches"),),
        "tiny_boxes",
        "scratches_1 box 1: scratches -50 x 20 pixels",
    ),
    "tiny": (
        (SCRATCH, Box(30, 40, 33, 60, "scratches")),
        "tiny_boxes",
        "scratches_1 box 2: scratches 3 x 20 pixels",
    ),
    "whole image": (
        (Box(0, 0, 100, 97, "scratches"),),
        "whole_image_boxes",
        "scratches_1 box 1: scratches 97 %",
    ),
    "repeated": (
        (SCRATCH, SCRATCH),
        "repeated_boxes",
        "scratches_1 box 2: scratches over box 1: scratches",
    ),
    "nearly repeated": (
        (SCRATCH, Box(10, 10, 61, 31, "scratches")),
        "repeated_boxes",
        "scratches_1 box 2: scratches over box 1: scratches",
    ),
}


@pytest.mark.parametrize(("boxes", "kind", "place"), PLANTED.values(), ids=PLANTED)
def test_planted_box(boxes, kind, place):
    (finding,) = findings_with(boxes=boxes)
    assert finding["kind"] == kind
    assert finding["where"] == [place]
    assert finding["message"].startswith("1 box ")


def test_two_classes_at_one_place():
    found = findings_with(boxes=(SCRATCH, replace(SCRATCH, label="patches")))
    assert [f["kind"] for f in found] == ["contradicting_boxes", "mislabelled_boxes"]
    assert found[0]["where"] == ["scratches_1 box 2: patches over box 1: scratches"]


def test_file_names_that_state_no_class_accuse_no_box():
    drawings = [replace(d, name=f"img_{i}", defect="img", filename="") for i, d in enumerate(CLEAN)]
    assert list(box_findings(drawings)) == []


def test_misspelt_label():
    drawings = [
        replace(CLEAN[0], name=f"img_{i}", defect="img", filename=f"img_{i}.png") for i in range(20)
    ]
    slip = replace(drawings[3], boxes=(replace(SCRATCH, label="scratchs"),))
    (finding,) = box_findings([*drawings[:3], slip, *drawings[4:], *drawings[:1]])
    assert finding["kind"] == "misspelt_labels"
    assert finding["where"] == ["img_3 box 1: scratchs"]
    assert "'scratchs' for 'scratches'" in finding["message"]
    assert list(box_findings([*drawings[:3], slip])) == []  # too few to call one of them rare


@pytest.mark.parametrize(
    ("changes", "kind", "place"),
    [
        (
            {"stated": (200, 100)},
            "annotation_size",
            "scratches_1: annotation 100 x 200, image 100 x 100",
        ),
        (
            {"filename": "C:\\data\\scratches_2.jpg"},
            "annotation_name",
            "scratches_1: annotation names scratches_2.jpg",
        ),
    ],
)
def test_annotation_of_another_image(changes, kind, place):
    (finding,) = findings_with(**changes)
    assert finding["kind"] == kind
    assert finding["where"] == [place]


CORNERS = st.integers(-20, 120)


@given(st.tuples(CORNERS, CORNERS, CORNERS, CORNERS), st.tuples(*[CORNERS] * 4))
def test_overlap_is_symmetric_and_a_fraction(a, b):
    first, second = Box(*a, "x"), Box(*b, "y")
    assert overlap(first, second) == overlap(second, first)
    assert 0 <= overlap(first, second) <= 1
    has_area = a[2] > a[0] and a[3] > a[1]
    assert overlap(first, first) == float(has_area)


def voc(name, boxes, width=100, height=100):
    objects = "".join(
        f"<object><name>{label}</name><bndbox><xmin>{x0}</xmin><ymin>{y0}</ymin>"
        f"<xmax>{x1}</xmax><ymax>{y1}</ymax></bndbox></object>"
        for x0, y0, x1, y1, label in boxes
    )
    return (
        f"<annotation><filename>{name}</filename><size><width>{width}</width>"
        f"<height>{height}</height></size>{objects}</annotation>"
    )


def test_drawn_boxes_are_read_wherever_they_lie(tmp_path):
    path = tmp_path / "a.xml"
    path.write_text(voc("a.jpg", [(0, -3, 250, 40, "scratches"), (9, 9, 4, 4, "")]))
    drawn = read_drawn_boxes(path)
    assert drawn.boxes == (Box(-1, -4, 250, 40, "scratches"), Box(8, 8, 4, 4, ""))
    assert (drawn.filename, drawn.width, drawn.height) == ("a.jpg", 100, 100)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("<annotation><object>", "not well-formed"),
        (voc("a", [("1.5", 2, 3, 4, "x")]), "expected a whole number"),
        (voc("a", [(2, 2, 999999, 4, "x")]), "redraw the box"),
        ('<!DOCTYPE x [<!ENTITY a "b">]><annotation/>', "declares entities"),
        ("<annotation/>", "has 0 <size>"),
    ],
)
def test_drawn_boxes_of_damaged_files(tmp_path, text, reason):
    path = tmp_path / "a.xml"
    path.write_text(text)
    with pytest.raises(AnnotationError, match=reason):
        read_drawn_boxes(path)
    with pytest.raises(AnnotationError, match="no such file"):
        read_drawn_boxes(tmp_path / "b.xml")
