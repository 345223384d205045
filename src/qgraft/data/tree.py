"""A folder of images in, its layout and one `Entry` per image out, judged by names alone.

- two_class: `normal/` and `anomalous/`, or other words of inspection for the two
- voc: `IMAGES/` or `JPEGImages/` beside `ANNOTATIONS/`, in any case
- classes: one folder for each class

All may lie below `train/`, `val/` and `test/`; what lies anywhere below a class folder belongs
to that class.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from qgraft.data.manifest import SPLIT_WORDS, UNPRINTABLE, Entry
from qgraft.errors import DataError

NORMAL_WORDS = frozenset({"normal", "good", "ok"})
ANOMALOUS_WORDS = frozenset({"anomalous", "defect", "defective", "bad", "ng"})
# What people call images; whether one may be decoded is for `images` to say, aloud.
IMAGE_SUFFIXES = frozenset(
    (".bmp", ".gif", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
)
_HIDDEN = (".", "__MACOSX")
_VOC_FOLDERS = frozenset({"images", "jpegimages"})


class Tree(NamedTuple):
    """The labelled images of a folder, sorted by name, and findings on what was left out."""

    layout: Literal["two_class", "voc", "classes"]
    entries: list[Entry]
    findings: list[str]


class _Scan(NamedTuple):
    """Sorted paths below a root, with `/` between their parts."""

    images: list[str]
    others: list[str]
    folders: list[str]


def read_tree(root: Path) -> Tree:
    """Return how the images below `root` are laid out, and what their folders say of them.

    Raises:
        DataError: the layout is unknown, a class folder is empty or stands beside normal and
            anomalous ones, or a folder is a link or cannot be read.
    """
    scan = _scan(root)
    entries = _entries(scan.images)
    labels = {entry.label for entry in entries}
    words = {label.lower() for label in labels}
    if words & NORMAL_WORDS and words & ANOMALOUS_WORDS:
        layout = "two_class"
        if foreign := sorted(words - NORMAL_WORDS - ANOMALOUS_WORDS):
            raise DataError(
                f"{root} has folders of normal and anomalous images and also {_some(foreign)}; "
                "move these away, or say what each image is in a manifest.csv"
            )
    elif words & _VOC_FOLDERS and "annotations" in _last_parts(scan.folders) - words:
        return Tree("voc", [], [])
    elif len(labels) >= 2:
        layout = "classes"
    else:
        raise DataError(
            f"{root} holds {len(scan.images)} images in {len(labels)} class folders; expected are "
            "at least two folders with images (normal/ and anomalous/, or one for each class), "
            "or a manifest.csv with the columns path,label"
        )
    if empty := sorted(_class_folders(scan.folders, entries) - labels):
        raise DataError(f"{root} has class folders without an image: {_some(empty)}; remove them")
    return Tree(layout, entries, _left_out(scan, entries))


def _scan(root: Path) -> _Scan:
    found, waiting = _Scan([], [], []), [""]
    while waiting:
        parent = waiting.pop()
        try:
            with os.scandir(root / parent) as listing:
                members = [entry for entry in listing if not entry.name.startswith(_HIDDEN)]
        except OSError as error:
            raise DataError(f"folder {root / parent} cannot be read ({error.strerror})") from None
        for entry in members:
            name = f"{parent}/{entry.name}" if parent else entry.name
            if UNPRINTABLE.search(name):
                raise DataError(f"{root} holds {name!a}, which cannot be shown; rename it")
            if entry.is_symlink() and os.path.isdir(entry.path):
                raise DataError(f"{entry.path} is a link to a folder; put the folder itself there")
            if entry.is_dir(follow_symlinks=False):
                found.folders.append(name)
                waiting.append(name)
            else:
                is_image = os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES
                (found.images if is_image else found.others).append(name)
    return _Scan(*map(sorted, found))


def _entries(images: Sequence[str]) -> list[Entry]:
    """Return an entry for each image that lies in a class folder."""
    paths = [(name, name.split("/")) for name in images]
    tops = {parts[0].lower() for _, parts in paths if len(parts) > 1}
    if tops and tops <= SPLIT_WORDS.keys():
        return [
            Entry(name, parts[1], split=SPLIT_WORDS[parts[0].lower()])
            for name, parts in paths
            if len(parts) > 2
        ]
    return [Entry(name, parts[0]) for name, parts in paths if len(parts) > 1]


def _class_folders(folders: Sequence[str], entries: Sequence[Entry]) -> set[str]:
    """Return the names of the folders that stand where the class folders of `entries` stand."""
    if entries[0].split is None:
        return {folder for folder in folders if "/" not in folder}
    below = [folder.split("/") for folder in folders]
    return {parts[1] for parts in below if len(parts) == 2 and parts[0].lower() in SPLIT_WORDS}


def _left_out(scan: _Scan, entries: Sequence[Entry]) -> list[str]:
    used = {entry.name for entry in entries}
    loose = [name for name in scan.images if name not in used]
    kinds = {"images outside any class folder": loose, "files that are no images": scan.others}
    return [
        f"{len(names)} {kind} left out: {_some(names)}" for kind, names in kinds.items() if names
    ]


def _last_parts(folders: Sequence[str]) -> set[str]:
    return {folder.lower().rpartition("/")[2] for folder in folders}


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
