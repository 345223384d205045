"""Pascal-VOC annotation files in, boxes out.

An annotation comes from a stranger: defusedxml refuses entities and document types, and size,
depth and element count are bounded while the parser runs, so a bomb never becomes a tree.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from xml.etree.ElementTree import Element, ParseError, TreeBuilder

from defusedxml.common import DefusedXmlException
from defusedxml.ElementTree import DefusedXMLParser

from qgraft.data.images import MAX_SIDE
from qgraft.data.imageset import Box
from qgraft.errors import AnnotationError

MAX_BYTES = 1_000_000
MAX_DEPTH = 16
MAX_ELEMENTS = 10_000
MAX_REASON = 200  # characters of what the parser says

_WHOLE_NUMBER = re.compile(r"[+-]?[0-9]{1,9}")


@dataclass(frozen=True, slots=True)
class Annotation:
    """What one VOC file says about one image.

    Attributes:
        filename: the image's name as written, or ""; for people, never a path to open.
        width: image width in pixels.
        height: image height in pixels.
        boxes: the boxes in file order, repeated ones included.
    """

    filename: str
    width: int
    height: int
    boxes: tuple[Box, ...]


def read_annotation(path: Path, *, shape: tuple[int, int] | None = None) -> Annotation:
    """Read a Pascal-VOC file; its 1-based inclusive corners become 0-based half-open boxes.

    Args:
        path: the XML file.
        shape: `(h, w)` of the image it belongs to; when given, the file must say the same.

    Raises:
        AnnotationError: the file is missing, hostile, damaged or contradicts the image.
    """
    return parse_annotation(_read_bytes(path), str(path), shape=shape)


def read_drawn_boxes(path: Path) -> Annotation:
    """Read a Pascal-VOC file as it was drawn: corners may lie anywhere, in any order.

    Raises:
        AnnotationError: the file is missing, hostile or damaged.
    """
    try:
        root = _parse(_read_bytes(path))
        size = _only_child(root, "size")
        width, height = (_whole_number(size, side, 1, MAX_SIDE) for side in ("width", "height"))
        boxes = tuple(_drawn_box(element) for element in root.findall("object"))
    except _FaultError as fault:
        raise AnnotationError(f"{path}: {fault}") from None
    return Annotation((root.findtext("filename") or "").strip(), width, height, boxes)


def _read_bytes(path: Path) -> bytes:
    try:
        if not path.is_file():
            raise AnnotationError(f"{path}: no such file; check the path of the annotations")
        with path.open("rb") as handle:
            return handle.read(MAX_BYTES + 1)
    except OSError as error:
        raise AnnotationError(f"{path}: {error.strerror}; check the rights of the file") from None


def parse_annotation(data: bytes, name: str, *, shape: tuple[int, int] | None = None) -> Annotation:
    """Do what `read_annotation` does with bytes; `name` is what to call them in messages.

    Raises:
        AnnotationError: the document is hostile, damaged or contradicts the image.
    """
    try:
        return _annotation(_parse(data), shape)
    except _FaultError as fault:
        raise AnnotationError(f"{name}: {fault}") from None


class _FaultError(Exception):
    """What is wrong with a document and what to do, without the file's name."""


class _BoundedBuilder(TreeBuilder):
    """A tree builder that stops a document at the first element over the limits."""

    def __init__(self) -> None:
        super().__init__()
        self.depth = self.elements = 0

    def start(self, tag: str, attrs: dict[str, str]) -> Element:  # type: ignore[override]
        self.depth += 1
        self.elements += 1
        if self.depth > MAX_DEPTH:
            raise _FaultError(f"nested deeper than {MAX_DEPTH} elements; this is not VOC")
        if self.elements > MAX_ELEMENTS:
            raise _FaultError(f"more than {MAX_ELEMENTS:,} elements; split the annotation")
        return super().start(tag, attrs)

    def end(self, tag: str) -> Element:
        self.depth -= 1
        return super().end(tag)


def _parse(data: bytes) -> Element:
    if len(data) > MAX_BYTES:
        raise _FaultError("larger than 1 MB; split the annotation")
    parser = DefusedXMLParser(target=_BoundedBuilder(), forbid_dtd=True)
    try:
        parser.feed(data)
        root = parser.close()
    except DefusedXmlException as error:
        kind = type(error).__name__
        raise _FaultError(f"declares entities or a DTD ({kind}); remove the declaration") from None
    except (ParseError, ValueError, LookupError) as error:
        reason = str(error)[:MAX_REASON]  # it quotes the file, which may name a huge encoding
        raise _FaultError(f"not well-formed XML ({reason}); export it again") from None
    if root.tag != "annotation":
        raise _FaultError(f"root element is <{root.tag[:40]}>, not <annotation>; export Pascal-VOC")
    return root


def _annotation(root: Element, shape: tuple[int, int] | None) -> Annotation:
    size = _only_child(root, "size")
    width, height = (_whole_number(size, side, 1, MAX_SIDE) for side in ("width", "height"))
    if shape is not None and (height, width) != shape:
        raise _FaultError(
            f"says {width} x {height} pixels but the image has {shape[1]} x {shape[0]}; "
            "correct <size> or pair it with the right image"
        )
    boxes = tuple(_box(element, width, height) for element in root.findall("object"))
    return Annotation((root.findtext("filename") or "").strip(), width, height, boxes)


def _box(element: Element, width: int, height: int) -> Box:
    label = (_only_child(element, "name").text or "").strip()
    if not label:
        raise _FaultError("an <object> has an empty <name>; give its defect class")
    corners = _only_child(element, "bndbox")
    xmin = _whole_number(corners, "xmin", 1, width)
    ymin = _whole_number(corners, "ymin", 1, height)
    xmax = _whole_number(corners, "xmax", xmin, width)
    ymax = _whole_number(corners, "ymax", ymin, height)
    return Box(xmin - 1, ymin - 1, xmax, ymax, label)


def _drawn_box(element: Element) -> Box:
    label = (_only_child(element, "name").text or "").strip()
    corners = _only_child(element, "bndbox")
    anywhere = -MAX_SIDE, 10 * MAX_SIDE
    xmin, ymin, xmax, ymax = (
        _whole_number(corners, side, *anywhere) for side in ("xmin", "ymin", "xmax", "ymax")
    )
    return Box(xmin - 1, ymin - 1, xmax, ymax, label)


def _only_child(parent: Element, tag: str) -> Element:
    found = parent.findall(tag)
    if len(found) != 1:
        raise _FaultError(f"<{parent.tag}> has {len(found)} <{tag}>, expected one; export it again")
    return found[0]


def _whole_number(parent: Element, tag: str, low: int, high: int) -> int:
    text = (_only_child(parent, tag).text or "").strip()
    if not _WHOLE_NUMBER.fullmatch(text):
        raise _FaultError(f"<{tag}> is {text[:40]!r}, expected a whole number; round it")
    if not low <= int(text) <= high:
        raise _FaultError(f"<{tag}> is {int(text)}, allowed are {low} to {high}; redraw the box")
    return int(text)
