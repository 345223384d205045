"""NEU-DET, or any folder laid out like it, -> `Photographs`, its quirks counted, not fatal.

Known quirks of the public copy: boxes labelled with another class than the file, file names
without suffix in the XML, repeated boxes, one photograph present twice.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from qgraft.data.annotations import Annotation, read_annotation
from qgraft.data.images import read_image
from qgraft.data.imageset import Photographs
from qgraft.data.tree import IMAGE_SUFFIXES
from qgraft.errors import AnnotationError, DataError, ImageError

DEFECTS = ("crazing", "inclusion", "patches", "pitted_surface", "rolled-in_scale", "scratches")
# Defects reach outside the boxes in these two, so the published study drops them.
DROPPED = ("crazing", "pitted_surface")
KEPT = tuple(name for name in DEFECTS if name not in DROPPED)

_IMAGE_FOLDERS = ("images", "jpegimages")


def load_photographs(
    root: Path,
    *,
    classes: Sequence[str] | None = None,
    on_error: Literal["fail", "skip"] = "fail",
) -> Photographs:
    """Read images and Pascal-VOC boxes that share their file names.

    Understands `IMAGES/` (or `JPEGImages/`, or `images/<class>/`) beside `ANNOTATIONS/`, in any
    case, directly below `root` or below `train/`, `validation/` and the like. The defect class
    is the file name up to its last `_<number>`; boxes may carry another one.

    Args:
        root: the folder.
        classes: which defect classes to keep; when not given, the four of the published study
            if the folder holds NEU-DET, else all.
        on_error: `"skip"` goes on without unreadable files and says so in the findings.

    Raises:
        DataError: no such layout, an unknown or empty class, or unreadable files, each named.
    """
    pairs = find_pairs(root)
    known = Counter(defect_of(image) for image, _ in pairs)
    if classes is None:
        classes = KEPT if set(DEFECTS) <= set(known) else sorted(known)
    for name in classes:
        if not known[name]:
            raise DataError(
                f"no image of class {name!r} in {root}; classes there: {', '.join(sorted(known))}"
            )
    images: list[np.ndarray] = []
    annotations: list[Annotation] = []
    paths: list[Path] = []
    faults: list[str] = []
    for image_path, xml_path in pairs:
        if defect_of(image_path) not in classes:
            continue
        try:
            image = read_image(image_path, channels=1)
            annotation = read_annotation(xml_path, shape=image.shape)
        except (ImageError, AnnotationError) as error:
            faults.append(str(error))
        else:
            images.append(image)
            annotations.append(annotation)
            paths.append(image_path)
    if faults and on_error == "fail":
        shown = "\n  ".join(faults[:10])
        raise DataError(
            f"{len(faults)} of {len(faults) + len(images)} images cannot be used; repair or "
            f"remove them, or go on without them with --on-error skip:\n  {shown}"
        )
    defects = tuple(defect_of(path) for path in paths)
    for name in classes:
        if name not in defects:
            raise DataError(f"no readable image of class {name!r} is left in {root}")
    skipped = [f"{len(faults)} images skipped: {'; '.join(faults[:10])}"] if faults else []
    return Photographs(
        images=tuple(images),
        defects=defects,
        boxes=tuple(tuple(dict.fromkeys(annotation.boxes)) for annotation in annotations),
        names=tuple(path.stem for path in paths),
        findings=(*skipped, *_quirks(paths, images, annotations)),
    )


def defect_types(root: Path) -> tuple[str, ...]:
    """Return all defect classes of a folder, sorted, dropped ones included.

    Raises:
        DataError: no such layout.
    """
    return tuple(sorted({defect_of(image) for image, _ in find_pairs(root)}))


def find_pairs(root: Path) -> list[tuple[Path, Path]]:
    """Return (image, annotation) paths in natural order of the names.

    Raises:
        DataError: no layout is recognised, or an image has no annotation file.
    """
    if not root.is_dir():
        raise DataError(f"{root} is not a folder")
    places = [root, *sorted(path for path in root.iterdir() if path.is_dir())]
    pairs: list[tuple[Path, Path]] = []
    for place in places:
        folders = {path.name.lower(): path for path in place.iterdir() if path.is_dir()}
        image_folder = next((folders[n] for n in _IMAGE_FOLDERS if n in folders), None)
        if image_folder is None or "annotations" not in folders:
            continue
        for image in image_folder.rglob("*"):
            if image.suffix.lower() in IMAGE_SUFFIXES:
                pairs.append((image, folders["annotations"] / f"{image.stem}.xml"))
    if not pairs:
        raise DataError(
            f"no images with boxes in {root}; expected IMAGES/*.jpg beside ANNOTATIONS/*.xml, "
            "directly or below train/ and validation/"
        )
    stems = Counter(image.stem for image, _ in pairs)
    twice = sorted(stem for stem, count in stems.items() if count > 1)
    if twice:
        raise DataError(f"{len(twice)} image names occur twice in {root}, first {twice[0]!r}")
    return sorted(pairs, key=lambda pair: _natural(pair[0].stem))


def _natural(stem: str) -> list[tuple[int, str]]:
    return [(int(part) if part.isdigit() else 0, part) for part in re.split(r"(\d+)", stem)]


def defect_of(image: Path) -> str:
    """Return the defect class that an image's file name states: all before its last number."""
    return re.sub(r"_\d+$", "", image.stem)


def _quirks(
    paths: Sequence[Path], images: Sequence[np.ndarray], annotations: Sequence[Annotation]
) -> list[str]:
    """Count what is odd about the files, a sentence each."""
    foreign = [
        sum(box.label != defect_of(path) for box in annotation.boxes)
        for path, annotation in zip(paths, annotations, strict=True)
    ]
    repeated = sum(len(a.boxes) - len(set(a.boxes)) for a in annotations)
    empty = sum(not a.boxes for a in annotations)
    bare = sum(not Path(a.filename).suffix for a in annotations)
    first: dict[bytes, str] = {}
    copies = [
        f"{path.stem} = {first[key]}"
        for path, key in zip(paths, map(np.ndarray.tobytes, images), strict=True)
        if first.setdefault(key, path.stem) != path.stem
    ]
    quirks = []
    if any(foreign):
        quirks.append(
            f"{sum(foreign)} boxes in {sum(map(bool, foreign))} images carry another class than "
            "their file; the file name decides"
        )
    if repeated:
        quirks.append(f"{repeated} boxes occur twice in their image; used once")
    if empty:
        quirks.append(f"{empty} images have no box: they are used as normal ones only")
    if bare:
        quirks.append(f"{bare} annotations name their image without suffix")
    if copies:
        quirks.append(f"{len(copies)} images are copies of another: {', '.join(copies[:5])}")
    return quirks
