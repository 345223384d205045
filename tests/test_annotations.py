"""VOC files, ordinary and hostile: every outcome is an `Annotation` or an `AnnotationError`."""

import random
import tracemalloc
from pathlib import Path

import pytest

from qgraft.data.annotations import Annotation, parse_annotation, read_annotation
from qgraft.data.imageset import Box
from qgraft.errors import AnnotationError

OBJECT = (
    "<object><name>{name}</name><bndbox><xmin>{xmin}</xmin><ymin>{ymin}</ymin>"
    "<xmax>{xmax}</xmax><ymax>{ymax}</ymax></bndbox></object>"
)
CORNERS = {"name": "scratches", "xmin": 1, "ymin": 2, "xmax": 200, "ymax": 100}


def voc(*objects: str, width: object = 200, height: object = 100, head: str = "") -> str:
    return (
        f"{head}<annotation><filename>steel_1.jpg</filename><size><width>{width}</width>"
        f"<height>{height}</height><depth>1</depth></size>{''.join(objects)}</annotation>"
    )


def box(**changes: object) -> str:
    return OBJECT.format(**{**CORNERS, **changes})


def read(text: str | bytes, **options) -> Annotation:
    data = text.encode() if isinstance(text, str) else text
    return parse_annotation(data, "steel_1.xml", **options)


def test_corners_become_zero_based_and_half_open():
    annotation = read(voc(box(), box(name=" inclusion ", xmax=1, ymax=2)), shape=(100, 200))
    assert annotation == Annotation(
        filename="steel_1.jpg",
        width=200,
        height=100,
        boxes=(Box(0, 1, 200, 100, "scratches"), Box(0, 1, 1, 2, "inclusion")),
    )


def test_repeated_boxes_and_images_without_boxes_are_kept():
    assert len(read(voc(box(), box())).boxes) == 2
    assert read(voc()).boxes == ()


def test_file_name_is_only_a_remark():
    text = voc(box())
    assert read(text.replace("steel_1.jpg", "../../etc/passwd")).filename == "../../etc/passwd"
    assert read(text.replace("<filename>steel_1.jpg</filename>", "")).filename == ""


def test_a_huge_name_of_an_encoding_is_not_repeated():
    head = f'<?xml version="1.0" encoding="{"x" * 100_000}"?>'
    with pytest.raises(AnnotationError, match="unknown encoding") as caught:
        read(voc(head=head))
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "iso-8859-1"])
def test_declared_encodings_are_read(encoding):
    declared = encoding.removesuffix("-sig")
    text = voc(box(name="Löcher"), head=f'<?xml version="1.0" encoding="{declared}"?>')
    assert read(text.encode(encoding)).boxes[0].label == "Löcher"


LAUGHS = '<!DOCTYPE a [<!ENTITY a0 "ha">' + "".join(
    f'<!ENTITY a{i} "{f"&a{i - 1};" * 10}">' for i in range(1, 10)
)
DTD = r"declares entities or a DTD \(\w+\); remove"
XML = "not well-formed XML"
ATTACKS: dict[str, tuple[str | bytes, str]] = {
    "billion laughs": (LAUGHS + "]>" + voc(box(name="&a9;")), DTD),
    "quadratic": (
        f'<!DOCTYPE a [<!ENTITY a "{"x" * 50_000}">]>' + voc(box(name="&a;" * 9000)),
        DTD,
    ),
    "external entity": (
        '<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]>' + voc(box(name="&x;")),
        DTD,
    ),
    "parameter entity": ('<!DOCTYPE a [<!ENTITY % p SYSTEM "http://x/y"> %p;]>' + voc(), DTD),
    "external dtd": ('<!DOCTYPE annotation SYSTEM "http://localhost/voc.dtd">' + voc(), DTD),
    "plain dtd": ("<!DOCTYPE annotation>" + voc(), DTD),
    "undeclared entity": (voc(box(name="&nbsp;")), XML),
    "deep nesting": ("<annotation>" + "<a>" * 200_000, "nested deeper than 16 elements"),
    "just too deep": (
        "<annotation>" + "<a>" * 16 + "</a>" * 16 + "</annotation>",
        "deeper than 16",
    ),
    "300,000 objects": (voc("<object/>" * 300_000), "larger than 1 MB"),
    "90,000 objects": (voc("<object/>" * 90_000), "more than 10,000 elements"),
    "9 MB of spaces": (" " * 9_000_000 + voc(), "larger than 1 MB"),
    "empty": ("", XML),
    "image": (b"\xff\xd8\xff\xe0" + bytes(100), XML),
    "json": ('{"annotation": {}}', XML),
    "cut off": (voc(box())[:-20], XML),
    "two roots": (voc() * 2, XML),
    "nul": (voc(box(name="a\0b")), XML),
    "bad utf-8": (voc(box(name="L")).encode().replace(b">L<", b">\xff\xfe<"), XML),
    "unknown encoding": (voc(head='<?xml version="1.0" encoding="klingon"?>'), XML),
    "utf-7": (voc(head='<?xml version="1.0" encoding="utf-7"?>'), XML),
    "html": ("<html><body/></html>", "root element is <html>, not <annotation>"),
    "no size": ("<annotation/>", "<annotation> has 0 <size>, expected one"),
    "two sizes": (voc("<size/>"), "<annotation> has 2 <size>"),
    "no width": (voc().replace("width", "breadth"), "<size> has 0 <width>"),
    "no name": (voc(box().replace("name", "nom")), "<object> has 0 <name>"),
    "empty name": (voc(box(name=" ")), "an <object> has an empty <name>; give its defect class"),
    "no bndbox": (voc("<object><name>a</name></object>"), "<object> has 0 <bndbox>"),
    "no xmax": (voc(box().replace("xmax", "xmin")), "<bndbox> has 2 <xmin>"),
    "nested number": (voc(box(xmin="<b>1</b>")), "<xmin> is '', expected a whole number"),
    "nan": (voc(box(xmin="nan")), "<xmin> is 'nan', expected a whole number; round it"),
    "infinite": (voc(box(xmax="inf")), "<xmax> is 'inf'"),
    "fraction": (voc(box(xmax="10.5")), r"<xmax> is '10\.5', expected a whole number; round it"),
    "exponent": (voc(box(xmax="1e2")), "<xmax> is '1e2'"),
    "underscore": (voc(box(xmax="1_0")), "<xmax> is '1_0'"),
    "other digits": (voc(box(xmax="١٢")), "<xmax> is '١٢'"),
    "negative": (voc(box(xmin=-5)), "<xmin> is -5, allowed are 1 to 200; redraw the box"),
    "zero": (voc(box(ymin=0)), "<ymin> is 0, allowed are 1 to 100"),
    "outside": (voc(box(xmax=201)), "<xmax> is 201, allowed are 1 to 200"),
    "below": (voc(box(ymax=101)), "<ymax> is 101, allowed are 2 to 100"),
    "turned": (voc(box(xmin=50, xmax=49)), "<xmax> is 49, allowed are 50 to 200"),
    "10**5000": (voc(box(xmax="9" * 5000)), "<xmax> is '9{40}', expected"),
    "wide": (voc(width=10_001), "<width> is 10001, allowed are 1 to 10000"),
    "no height": (voc(height=0), "<height> is 0, allowed are 1 to 10000"),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_attacks_are_refused_cheaply(attack):
    text, message = ATTACKS[attack]
    tracemalloc.start()
    try:
        with pytest.raises(AnnotationError, match=rf"^steel_1\.xml: .*{message}") as caught:
            read(text)
        assert tracemalloc.get_traced_memory()[1] < 20 * 2**20
    finally:
        tracemalloc.stop()
    assert len(str(caught.value)) < 500
    assert ";" in str(caught.value)  # says what to do


def test_size_must_be_that_of_the_image():
    with pytest.raises(AnnotationError, match="says 200 x 100 pixels but the image has 100 x 200"):
        read(voc(box()), shape=(200, 100))


def test_limits_themselves_are_allowed():
    read("<annotation>" + voc()[12:-13] + "<a>" * 15 + "</a>" * 15 + "</annotation>")
    assert len(read(voc(*[box()] * 1427)).boxes) == 1427  # 7 elements each, 5 around them: 9,994


def test_files_are_named_in_messages(tmp_path):
    path = tmp_path / "steel_1.xml"
    path.write_text(voc(box()))
    assert read_annotation(path, shape=(100, 200)) == read(voc(box()))
    path.write_text(voc(box()) + " " * 1_000_000)
    with pytest.raises(AnnotationError, match=rf"^{path}: larger than 1 MB"):
        read_annotation(path)
    for path in (tmp_path / "none.xml", tmp_path):
        with pytest.raises(
            AnnotationError, match="no such file; check the path of the annotations"
        ):
            read_annotation(path)
    with pytest.raises(AnnotationError, match="no such file"):
        read_annotation(Path("a\0.xml"))


def test_mutants_parse_or_are_refused():
    original = voc(box(), box(name="inclusion", xmin=20)).encode()
    rng, refused, n = random.Random(11), 0, 10_000
    pieces = [
        b"<",
        b">",
        b"</",
        b"&",
        b"-",
        b"9" * 12,
        b"\0",
        b"\xff",
        b"<!DOCTYPE x>",
        b"]]>",
        b".",
    ]
    for _ in range(n):
        mutant = bytearray(original)
        for _ in range(rng.randint(1, 3)):
            at = rng.randrange(len(mutant))
            mutant[at : at + rng.randint(0, 3)] = rng.choice([*pieces, bytes([rng.randrange(256)])])
        try:
            annotation = read(bytes(mutant))
        except AnnotationError:
            refused += 1
        else:
            for b in annotation.boxes:
                assert 0 <= b.x0 < b.x1 <= annotation.width
                assert 0 <= b.y0 < b.y1 <= annotation.height
                assert b.label
    assert 0.5 < refused / n < 1


@pytest.mark.real_data
def test_neu_det_is_read_whole(real_data):
    paths = sorted((real_data / "neu-det" / "ANNOTATIONS").glob("*.xml"))
    annotations = {path.stem: read_annotation(path, shape=(200, 200)) for path in paths}
    assert len(annotations) == 1800
    assert sum(len(a.boxes) for a in annotations.values()) == 4189
    repeated = [stem for stem, a in annotations.items() if len(set(a.boxes)) < len(a.boxes)]
    assert repeated == ["crazing_120", "inclusion_62", "patches_198"]
    boxes_of_class = dict.fromkeys(sorted({stem.rsplit("_", 1)[0] for stem in annotations}), 0)
    for stem, annotation in annotations.items():
        boxes_of_class[stem.rsplit("_", 1)[0]] += len(annotation.boxes)
    assert boxes_of_class == {
        "crazing": 694,
        "inclusion": 884,
        "patches": 873,
        "pitted_surface": 489,
        "rolled-in_scale": 628,
        "scratches": 621,
    }
