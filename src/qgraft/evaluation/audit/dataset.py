"""Any data set that qgraft reads, from its folder or manifest to findings.

Unlike a study the audit goes on where files are damaged, boxes lie outside or splits share
images: these are what it is here to report.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from qgraft.data.annotations import read_drawn_boxes
from qgraft.data.folders import detect_layout, image_set, list_images, require_classes
from qgraft.data.imageset import ImageSet, Photographs
from qgraft.data.manifest import Entry
from qgraft.data.neu_det import defect_of, find_pairs, load_photographs
from qgraft.data.splits import Protocol, Splits, clean_splits, paper_splits
from qgraft.data.surface import most_per_class, photograph_of, surface_images, surface_splits
from qgraft.errors import AnnotationError, ConfigError, DataError
from qgraft.evaluation.audit import checks, copies
from qgraft.evaluation.audit.boxes import Drawing, box_findings
from qgraft.evaluation.audit.evidence import Evidence, Sketch, evidence_of, gather
from qgraft.evaluation.audit.files import Progress, read_sketches, unreadable_files
from qgraft.evaluation.audit.findings import Finding, counted, finding, worst_first


class Splitting(NamedTuple):
    """How a data set is split: as `fit` would, unless its owner split it.

    Attributes:
        protocol: how images are split, and made where photographs have boxes.
        n_folds: number of folds.
        seed: decides every draw.
        per_class: images of each class to make from boxes; as many as possible by default.
    """

    protocol: Protocol = "clean"
    n_folds: int = 6
    seed: int = 0
    per_class: int | None = None


def _silent(done: float, total: float, note: str) -> None:
    """Show nothing."""


def audit_data(
    root: Path,
    splitting: Splitting | None = None,
    *,
    classes: Sequence[str] | None = None,
    progress: Progress = _silent,
) -> list[Finding]:
    """Return all findings about the data set at `root`; worst first.

    Args:
        root: a folder or a CSV manifest, in any layout that `fit` reads.
        splitting: how to split it; the defaults of `Splitting` when not given.
        classes: defect classes to look at, of photographs with boxes only.
        progress: called with (done, all, note).

    Raises:
        DataError: nothing that could be audited is there.
        ConfigError: an option that this layout does not know.
    """
    splitting = splitting or Splitting()
    if detect_layout(root) == "voc":
        found = _audit_boxed(root, splitting, classes, progress)
    elif classes or splitting.per_class:
        raise ConfigError("--classes and --per-class go with images that have boxes only")
    else:
        found = _audit_sorted(root, splitting, progress)
    findings = worst_first(found)
    progress(1.0, 1.0, "audited")
    return findings


def _audit_sorted(root: Path, splitting: Splitting, progress: Progress) -> Iterator[Finding]:
    """Audit images that their owner sorted into class folders or listed in a manifest."""
    folder, entries, _ = list_images(root)
    sketches, faults = read_sketches({e.name: folder / e.name for e in entries}, progress)
    yield from unreadable_files("unreadable_files", faults)
    entries = [entry for entry in entries if entry.name in sketches]
    require_classes(entries, root)
    kept = [sketches[entry.name] for entry in entries]
    # The small copies stand in for the images: groups and labels do not depend on their size.
    images = image_set(np.stack([sketch.small for sketch in kept]), entries, None, ())
    evidence = _evidence(images, kept)
    parts = _given_parts(entries)
    if parts and splitting.protocol == "paper":
        raise ConfigError(
            "the images come with splits of their own, which protocol 'paper' would ignore; "
            "use --protocol clean"
        )
    try:
        splits = _split(images, entries, splitting)
    except DataError as error:
        splits, reason = None, str(error)
        if not _torn(evidence, parts):  # which is reported on its own
            yield _unsplittable(reason)
    if splits is not None and not parts:
        parts = checks.parts_of(splits)
        yield from checks.seen_by_trunk(images, splits)
    progress(0.8, 1.0, "comparing images")
    yield from checks.file_findings(evidence)
    yield from checks.label_findings(evidence)
    yield from checks.copy_findings(evidence, parts)


def _evidence(images: ImageSet, sketches: Sequence[Sketch]) -> Evidence:
    return gather(
        sketches,
        names=images.names,
        labels=images.labels,
        groups=images.groups,
        class_names=images.class_names,
    )


def _given_parts(entries: Sequence[Entry]) -> dict[str, np.ndarray]:
    """Return the splits that the owner of the images made, by name."""
    words = np.array([entry.split or "" for entry in entries])
    found = {word: np.flatnonzero(words == word) for word in ("train", "val", "test")}
    return {word: members for word, members in found.items() if len(members)}


def _split(images: ImageSet, entries: Sequence[Entry], splitting: Splitting) -> Splits:
    seed, n_folds = splitting.seed, splitting.n_folds
    if splitting.protocol == "paper":
        return paper_splits(images, n_folds=n_folds, seed=seed)
    words = [entry.split or "" for entry in entries]
    assigned = words if any(words) else None
    return clean_splits(images, n_folds=n_folds, seed=seed, assigned=assigned)


def _torn(evidence: Evidence, parts: copies.Parts) -> bool:
    shared = (*copies.shared_images(evidence, parts), *copies.shared_photographs(evidence, parts))
    return bool(shared)


def _unsplittable(reason: str) -> Finding:
    return finding("unsplittable", "high", [], f"no honest split is possible: {reason}")


def _audit_boxed(
    root: Path, splitting: Splitting, classes: Sequence[str] | None, progress: Progress
) -> Iterator[Finding]:
    """Audit photographs with boxes, then the normal and anomalous images made from them."""
    photographs = load_photographs(root, classes=classes, on_error="skip")
    wanted = set(photographs.defects)
    pairs = [pair for pair in find_pairs(root) if defect_of(pair[0]) in wanted]
    sketches, faults = read_sketches({image.stem: image for image, _ in pairs}, progress)
    yield from unreadable_files("unreadable_files", faults)
    yield from _annotation_findings(pairs, sketches)
    numbers = {name: n for n, name in enumerate(sorted(wanted))}
    evidence = gather(
        list(sketches.values()),
        names=list(sketches),
        labels=np.array([numbers[defect_of(Path(f"{name}.x"))] for name in sketches]),
        groups=np.arange(len(sketches)),
        class_names=list(numbers),
    )
    yield from checks.file_findings(evidence)
    progress(0.8, 1.0, "comparing images")
    try:
        images, splits = _surface(photographs, splitting)
    except DataError as error:
        yield _unsplittable(str(error))
        yield from copies.repeated_images(evidence, {})
        yield from copies.near_duplicates(evidence, {})
        return
    parts = _photograph_parts(evidence, images, splits)
    yield from copies.repeated_images(evidence, parts)
    yield from copies.near_duplicates(evidence, parts)
    yield from checks.label_findings(crops := evidence_of(images))
    yield from copies.shared_images(crops, checks.parts_of(splits))
    yield from copies.shared_photographs(crops, checks.parts_of(splits))
    yield from checks.seen_by_trunk(images, splits)


def _surface(photographs: Photographs, splitting: Splitting) -> tuple[ImageSet, Splits]:
    protocol, n_folds, seed, per_class = splitting
    images = surface_images(
        photographs,
        protocol=protocol,
        per_class=per_class or most_per_class(photographs),
        seed=seed,
    )
    splits = surface_splits(photographs, images, protocol=protocol, n_folds=n_folds, seed=seed)
    return images, splits


def _photograph_parts(evidence: Evidence, images: ImageSet, splits: Splits) -> copies.Parts:
    """Return which photographs are on which side; none where photographs are on both."""
    index = {name: i for i, name in enumerate(evidence.names)}
    parts = {
        word: np.unique([index[photograph_of(images.names[i])] for i in members])
        for word, members in checks.parts_of(splits).items()
    }
    on_both = len(np.unique(np.concatenate([*parts.values()]))) < sum(map(len, parts.values()))
    return {} if on_both else parts


def _annotation_findings(
    pairs: Sequence[tuple[Path, Path]], sketches: dict[str, Sketch]
) -> Iterator[Finding]:
    faults: dict[str, str] = {}
    drawings = []
    for image, path in pairs:
        try:
            drawn = read_drawn_boxes(path)
        except AnnotationError as error:
            faults[image.stem] = str(error)
            continue
        if image.stem in sketches:
            shape = sketches[image.stem].height, sketches[image.stem].width
            stated = drawn.height, drawn.width
            drawing = (image.stem, defect_of(image), shape, stated, drawn.filename, drawn.boxes)
            drawings.append(Drawing(*drawing))
    yield from unreadable_files("unreadable_annotations", faults)
    yield from box_findings(drawings)
    known = {path for _, path in pairs}
    classes = {defect_of(image) for image, _ in pairs}
    strays = sorted(
        path.stem
        for folder in {path.parent for path in known}
        for path in folder.glob("*.xml")
        if path not in known and defect_of(path) in classes
    )
    if strays:
        yield finding(
            "stray_annotations",
            "low",
            strays,
            f"{counted(strays, 'annotation')} without an image: remove, or find the image",
        )
