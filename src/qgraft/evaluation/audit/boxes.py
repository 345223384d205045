"""Faults of hand-drawn boxes: wrong class, outside the image, too small, too large, repeated."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from qgraft.data.imageset import Box
from qgraft.evaluation.audit.findings import Finding, Severity, counted, finding

SMALLEST_SIDE = 4  # pixels; NEU-DET's smallest box is 9 wide, a slip of the mouse 1 to 3
WHOLE_IMAGE = 0.95  # of the area: such a box says that there is a defect, not where
SAME_BOX = 0.9  # intersection over union; the next most alike boxes of NEU-DET have 0.40
CONTRADICTION = 0.5  # of boxes of two classes; NEU-DET's most overlapping ones have 0.36
MISSPELT = 0.8  # likeness of two labels, see difflib; "scratchs" and "scratches" have 0.94
RARELY = 0.05  # a label is taken for a slip if it is this much rarer than the one it is like


@dataclass(frozen=True)
class Drawing:
    """The boxes of one photograph as drawn; corners may lie anywhere.

    Attributes:
        name: file stem of the photograph.
        defect: the class its file name states.
        shape: `(h, w)` of the photograph.
        stated: `(h, w)` that the annotation states.
        filename: the photograph's name that the annotation states, or "".
        boxes: in file order.
    """

    name: str
    defect: str
    shape: tuple[int, int]
    stated: tuple[int, int]
    filename: str
    boxes: tuple[Box, ...]


def box_findings(drawings: Sequence[Drawing]) -> Iterator[Finding]:
    """Report what is wrong with boxes and with what annotations say of their photographs."""
    for kind, severity, faults_of, nouns, advice in _RULES:
        where = [place for drawing in drawings for place in faults_of(drawing)]
        if where:
            yield finding(kind, severity, where, f"{counted(where, *nouns)} {advice}")
    yield from mislabelled_boxes(drawings)
    yield from misspelt_labels(drawings)


def mislabelled_boxes(drawings: Sequence[Drawing]) -> Iterator[Finding]:
    """Report boxes of another class than their file name, where file names state classes."""
    known = {box.label for drawing in drawings for box in drawing.boxes}
    foreign = [
        (drawing.name, f"{drawing.name} box {k}: {box.label}")
        for drawing in drawings
        if drawing.defect in known
        for k, box in enumerate(drawing.boxes, 1)
        if box.label != drawing.defect
    ]
    if foreign:
        yield finding(
            "mislabelled_boxes",
            "medium",
            (place for _, place in foreign),
            f"{counted(foreign, 'box', 'boxes')} of another class than the file name says, in "
            f"{counted({name for name, _ in foreign}, 'photograph')}: correct the box, or accept "
            "that such photographs show two kinds of defect; studies go by the file name",
        )


def misspelt_labels(drawings: Sequence[Drawing]) -> Iterator[Finding]:
    """Report labels that are rare and nearly spelt like a frequent one."""
    counts = Counter(box.label for drawing in drawings for box in drawing.boxes)
    slips: dict[str, str] = {}
    for label, count in counts.items():
        frequent = [other for other, n in counts.items() if count <= RARELY * n]
        if meant := difflib.get_close_matches(label, frequent, n=1, cutoff=MISSPELT):
            slips[label] = meant[0]
    if slips:
        listed = ", ".join(f"{slip!r} for {meant!r}" for slip, meant in slips.items())
        yield finding(
            "misspelt_labels",
            "medium",
            (
                f"{drawing.name} box {k}: {box.label}"
                for drawing in drawings
                for k, box in enumerate(drawing.boxes, 1)
                if box.label in slips
            ),
            f"{counted(slips, 'label')} perhaps misspelt ({listed}): correct the annotations",
        )


def _outside(drawing: Drawing) -> list[str]:
    height, width = drawing.shape
    return [
        f"{drawing.name} box {k}: {box.label} {box.x0 + 1} {box.y0 + 1} {box.x1} {box.y1}"
        for k, box in enumerate(drawing.boxes, 1)
        if min(box.x0, box.y0, box.x1, box.y1) < 0
        or max(box.x0, box.x1) > width
        or max(box.y0, box.y1) > height
    ]


def _tiny(drawing: Drawing) -> list[str]:
    return [
        f"{drawing.name} box {k}: {box.label} {box.x1 - box.x0} x {box.y1 - box.y0} pixels"
        for k, box in enumerate(drawing.boxes, 1)
        if min(box.x1 - box.x0, box.y1 - box.y0) < SMALLEST_SIDE
    ]


def _whole(drawing: Drawing) -> list[str]:
    area = drawing.shape[0] * drawing.shape[1]
    return [
        f"{drawing.name} box {k}: {box.label} {100 * _area(box) / area:.0f} %"
        for k, box in enumerate(drawing.boxes, 1)
        if _area(box) > WHOLE_IMAGE * area
    ]


def _repeated(drawing: Drawing) -> list[str]:
    return _overlapping(drawing, SAME_BOX, lambda a, b: a.label == b.label)


def _contradicting(drawing: Drawing) -> list[str]:
    return _overlapping(drawing, CONTRADICTION, lambda a, b: a.label != b.label)


def _overlapping(drawing: Drawing, least: float, matters: Callable[[Box, Box], bool]) -> list[str]:
    """Return each box that overlaps one before it; a box is named once."""
    found = []
    for k, box in enumerate(drawing.boxes):
        for j, other in enumerate(drawing.boxes[:k]):
            if matters(box, other) and overlap(box, other) >= least:
                found.append(
                    f"{drawing.name} box {k + 1}: {box.label} over box {j + 1}: {other.label}"
                )
                break
    return found


def _wrong_size(drawing: Drawing) -> list[str]:
    if drawing.stated == drawing.shape:
        return []
    (height, width), (h, w) = drawing.stated, drawing.shape
    return [f"{drawing.name}: annotation {width} x {height}, image {w} x {h}"]


def _wrong_name(drawing: Drawing) -> list[str]:
    stated = Path(drawing.filename.replace("\\", "/")).name
    is_it = not stated or drawing.name in (stated, Path(stated).stem)
    return [] if is_it else [f"{drawing.name}: annotation names {stated}"]


_BOX, _NOTE = ("box", "boxes"), ("annotation", "annotations")
_Rule = tuple[str, Severity, Callable[[Drawing], list[str]], tuple[str, str], str]
_RULES: tuple[_Rule, ...] = (
    ("boxes_outside", "high", _outside, _BOX,
     "reaching outside the image: redraw; studies leave such photographs out"),
    ("annotation_size", "high", _wrong_size, _NOTE,
     "with another size than the image: the boxes were drawn on another version of it, redraw"),
    ("annotation_name", "medium", _wrong_name, _NOTE,
     "naming another image than the one of the same file name: check for a swap"),
    ("tiny_boxes", "medium", _tiny, _BOX,
     f"without area or with a side below {SMALLEST_SIDE} pixels: remove or redraw"),
    ("contradicting_boxes", "medium", _contradicting, _BOX,
     f"overlapping one of another class by {100 * CONTRADICTION:.0f} % or more: decide for one"),
    ("whole_image_boxes", "low", _whole, _BOX,
     f"covering more than {100 * WHOLE_IMAGE:.0f} % of the image: where the defect is stays "
     "unknown, and no normal crop is left"),
    ("repeated_boxes", "low", _repeated, _BOX,
     "drawn twice: remove one of each; studies use equal ones once"),
)  # fmt: skip


def overlap(a: Box, b: Box) -> float:
    """Return intersection over union of two boxes; 0 where one has no area."""
    width = min(a.x1, b.x1) - max(a.x0, b.x0)
    height = min(a.y1, b.y1) - max(a.y0, b.y0)
    if width <= 0 or height <= 0:
        return 0.0
    return width * height / (_area(a) + _area(b) - width * height)


def _area(box: Box) -> int:
    return max(0, box.x1 - box.x0) * max(0, box.y1 - box.y0)
