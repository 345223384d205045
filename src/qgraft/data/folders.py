"""Anyone's labelled images in, `ImageSet` out; how they are laid out is found by looking.

A CSV manifest (see `manifest`) or a tree of class folders (see `tree`). Every image is decoded by
`images`, on two threads, straight into its place.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from qgraft.data.images import MAX_SIDE, read_image
from qgraft.data.imageset import ImageSet
from qgraft.data.manifest import Entry, listing, read_manifest
from qgraft.data.tree import ANOMALOUS_WORDS, NORMAL_WORDS, read_tree
from qgraft.errors import ConfigError, DataError, ImageError

Layout = Literal["manifest", "two_class", "classes", "voc"]

_THREADS = 2


@dataclass(frozen=True)
class LoadedImages:
    """Images as their owner sorted them.

    Attributes:
        images: all images; groups are numbered in order of first appearance.
        split: "train", "val" or "test" of each image, or None where nobody split them.
    """

    images: ImageSet
    split: tuple[str, ...] | None


def detect_layout(root: Path) -> Layout:
    """Return how the images at `root` are laid out, judging by names alone.

    Raises:
        DataError: there is no such folder or manifest, or its layout cannot be used.
    """
    return "manifest" if _manifest_of(root) else read_tree(root).layout


def load_images(
    root: Path,
    *,
    size: int,
    channels: Literal[1, 3] = 1,
    on_error: Literal["fail", "skip"] = "fail",
    group_by: Callable[[str], str] | None = None,
    allow_tiff: bool = False,
) -> LoadedImages:
    """Load every labelled image at `root`, resized to `size` x `size`.

    Labels of normal and anomalous are 0 and 1; other classes are numbered in sorted order. Each
    image is its own group unless the manifest or `group_by` says otherwise.

    Args:
        root: a folder, or a CSV manifest.
        size: side in pixels.
        channels: 1 for grey, 3 for RGB.
        on_error: `"skip"` goes on without unreadable files and says so in the findings.
        group_by: maps an image's name (its path below `root`) to its group, before any manifest.
        allow_tiff: accept TIFF files as well.

    Raises:
        DataError: the layout, a path or a class is wrong, or files are unreadable, each named.
    """
    if not 1 <= size <= MAX_SIDE:
        raise ConfigError(f"image size must be 1 to {MAX_SIDE} pixels, got {size}")
    folder, entries, findings = list_images(root)

    def read(name: str) -> np.ndarray:
        return read_image(folder / name, channels=channels, size=size, allow_tiff=allow_tiff)

    shape = (size, size) if channels == 1 else (size, size, channels)
    images, faults = _read_all([entry.name for entry in entries], read, shape)
    if faults:
        if on_error == "fail":
            raise DataError(
                f"{root} has {listing([*faults.values()], 'unreadable file')}\n"
                "Mend or remove them, or go on without them: --on-error skip"
            )
        readable = [i for i in range(len(entries)) if i not in faults]
        images, entries = images[readable], [entries[i] for i in readable]
        require_classes(entries, root)
        findings.append(f"{len(faults)} files skipped: {'; '.join([*faults.values()][:10])}")
    split = tuple(entry.split for entry in entries if entry.split)
    return LoadedImages(image_set(images, entries, group_by, findings), split or None)


def list_images(root: Path) -> tuple[Path, list[Entry], list[str]]:
    """Return the folder that names are relative to, what is said of each image, and findings.

    Raises:
        DataError: the layout, a path or a class is wrong.
    """
    folder, entries, findings = _find_entries(root)
    _require_inside(entries, folder)
    require_classes(entries, root)
    return folder, entries, findings


def _manifest_of(root: Path) -> Path | None:
    if root.is_dir():
        manifest = root / "manifest.csv"
        return manifest if manifest.is_file() else None
    if root.is_file() and root.suffix.lower() == ".csv":
        return root
    raise DataError(f"{root} is no folder and no .csv manifest; check the path of the data")


def _find_entries(root: Path) -> tuple[Path, list[Entry], list[str]]:
    """Return the folder that names are relative to, the entries, and findings."""
    if manifest := _manifest_of(root):
        return manifest.parent, read_manifest(manifest), []
    layout, entries, findings = read_tree(root)
    if layout == "voc":
        raise DataError(
            f"{root} holds images with Pascal-VOC boxes, not class folders; load it as surface "
            "photographs with qgraft.data.neu_det.load_photographs"
        )
    return root, entries, findings


def _require_inside(entries: Sequence[Entry], folder: Path) -> None:
    """Refuse files that links lead out of the folder, or that are one file under two names."""
    inside = os.path.join(os.path.realpath(folder), "")
    seen: dict[str, str] = {}
    for name in (entry.name for entry in entries):
        target = os.path.realpath(os.path.join(folder, name))
        if not target.startswith(inside):
            raise DataError(f"{folder / name} is a link that leaves {folder}; put the file there")
        if seen.setdefault(target, name) != name:
            raise DataError(f"{name} and {seen[target]} in {folder} are one file; keep one of them")


def require_classes(entries: Sequence[Entry], root: Path) -> None:
    """Refuse entries that do not hold images of at least two classes.

    Raises:
        DataError: a class has no image, or there are fewer than two.
    """
    class_names, labels = numbered_labels([entry.label for entry in entries])
    counts = np.bincount(labels, minlength=len(class_names))
    if len(class_names) < 2 or not counts.all():
        have = ", ".join(f"{n} {name}" for name, n in zip(class_names, counts, strict=True))
        raise DataError(f"{root} has {have or 'no images'}; at least two classes need images")


def numbered_labels(labels: Sequence[str]) -> tuple[tuple[str, ...], np.ndarray]:
    """Return class names and the number of each label; the two-class words share 0 and 1."""
    words = {label: label.lower() for label in labels}
    if words and set(words.values()) <= NORMAL_WORDS | ANOMALOUS_WORDS:
        class_names = ("normal", "anomalous")
        numbers = {label: int(word in ANOMALOUS_WORDS) for label, word in words.items()}
    else:
        class_names = tuple(sorted(words))
        numbers = {label: number for number, label in enumerate(class_names)}
    return class_names, np.array([numbers[label] for label in labels], dtype=np.int64)


def _read_all(
    names: Sequence[str], read: Callable[[str], np.ndarray], shape: tuple[int, ...]
) -> tuple[np.ndarray, dict[int, str]]:
    """Return the images and, by index, what is wrong with each unreadable one."""
    try:
        images = np.zeros((len(names), *shape), dtype=np.uint8)
    except MemoryError:
        raise DataError(
            f"{len(names)} images of {shape[0]} pixels exceed the memory; lower the image size"
        ) from None

    def fill(i: int) -> str | None:
        try:
            images[i] = read(names[i])
        except ImageError as error:
            return str(error)
        return None

    with ThreadPoolExecutor(_THREADS) as pool:
        outcomes = list(pool.map(fill, range(len(names))))
    return images, {i: fault for i, fault in enumerate(outcomes) if fault is not None}


def _merged(keys: Sequence[str], images: np.ndarray) -> tuple[list[str], int]:
    """Give groups that share an image with equal pixels one key; return the number of copies."""
    first: dict[bytes, str] = {}
    same: dict[str, str] = {}

    def root(key: str) -> str:
        while key in same:
            key = same[key]
        return key

    n_copies = 0
    for key, image in zip(keys, images, strict=True):
        digest = hashlib.sha256(image.tobytes()).digest()
        n_copies += digest in first
        known, own = root(first.setdefault(digest, key)), root(key)
        if known != own:
            same[own] = known
    return [root(key) for key in keys], n_copies


def image_set(
    images: np.ndarray,
    entries: Sequence[Entry],
    group_by: Callable[[str], str] | None,
    findings: Sequence[str],
) -> ImageSet:
    """Return images with what is said of them; equal pixels are one group."""
    class_names, labels = numbered_labels([entry.label for entry in entries])
    keys = [group_by(e.name) if group_by else e.group or e.name for e in entries]
    keys, n_copies = _merged(keys, images)
    if n_copies:
        findings = [*findings, f"{n_copies} images have the pixels of another; kept in its group"]
    number = {key: n for n, key in enumerate(dict.fromkeys(keys))}
    groups = np.array([number[key] for key in keys], dtype=np.int64)
    names = tuple(entry.name for entry in entries)
    return ImageSet(images, labels, groups, names, class_names, tuple(findings))
