"""The checks in their order: of one set of images, and of how it is split."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from qgraft.data.imageset import ImageSet
from qgraft.data.splits import Splits
from qgraft.evaluation.audit import copies, files
from qgraft.evaluation.audit.controls import class_balance, shortcuts
from qgraft.evaluation.audit.evidence import Evidence, evidence_of
from qgraft.evaluation.audit.findings import Finding, finding, worst_first
from qgraft.evaluation.audit.labels import label_noise


def audit_images(images: ImageSet, splits: Splits | None = None) -> list[Finding]:
    """Return all findings about loaded images and, where given, their splits; worst first."""
    evidence = evidence_of(images)
    parts = parts_of(splits) if splits is not None else {}
    found = [*label_findings(evidence), *copy_findings(evidence, parts)]
    found += files.blank_images(evidence)
    if splits is not None:
        found += seen_by_trunk(images, splits)
    return worst_first(found)


def audit_parts(parts: Mapping[str, ImageSet], about: str) -> list[Finding]:
    """Return all findings about images that come in parts which must share nothing; worst first.

    Args:
        parts: images by the name of their part, such as `training` and `test`; equal classes.
        about: what they are, put before every message.
    """
    ends = np.cumsum([len(part) for part in parts.values()])
    index = dict(zip(parts, np.split(np.arange(ends[-1]), ends[:-1]), strict=True))
    joined = ImageSet(
        np.concatenate([part.images for part in parts.values()]),
        np.concatenate([part.labels for part in parts.values()]),
        np.arange(ends[-1]),
        tuple(f"{place} {name}" for place, part in parts.items() for name in part.names),
        next(iter(parts.values())).class_names,
    )
    return audit_split(joined, index, about)


def audit_split(
    images: ImageSet, parts: copies.Parts, about: str, compared: np.ndarray | None = None
) -> list[Finding]:
    """Return all findings about images and how they are split; worst first.

    Args:
        images: all images; names tell their part.
        parts: which of them are in each part; parts must share nothing.
        about: what they are, put before every message.
        compared: those among which near-duplicates are sought, by default all: the time this takes
            grows with the square of their number.
    """
    evidence = evidence_of(images)
    found = [*label_findings(evidence), *copy_findings(evidence, parts, compared)]
    found += files.blank_images(evidence)
    return worst_first([{**item, "message": f"{about}: {item['message']}"} for item in found])


def label_findings(evidence: Evidence) -> Iterator[Finding]:
    """Report what is wrong with classes: their sizes, shortcuts to them, single labels."""
    yield from class_balance(evidence)
    yield from shortcuts(evidence)
    yield from label_noise(evidence)


def copy_findings(
    evidence: Evidence, parts: copies.Parts, compared: np.ndarray | None = None
) -> Iterator[Finding]:
    """Report images that are there more than once, across a split or anywhere."""
    yield from copies.shared_images(evidence, parts)
    yield from copies.shared_photographs(evidence, parts)
    yield from copies.repeated_images(evidence, parts)
    yield from copies.near_duplicates(evidence, parts, compared)


def file_findings(evidence: Evidence) -> Iterator[Finding]:
    """Report images unlike the others."""
    yield from files.blank_images(evidence)
    yield from files.deviating_sizes(evidence)
    yield from files.deviating_modes(evidence)


def parts_of(splits: Splits) -> dict[str, np.ndarray]:
    """Return the parts that must share nothing: the hold-out, or else the selection part."""
    if len(splits.holdout):
        return {"development": splits.development, "hold-out": splits.holdout}
    return {"training": splits.train, "test": splits.select}


def seen_by_trunk(images: ImageSet, splits: Splits) -> Iterator[Finding]:
    """Report images that heads are scored on although the trunk learned from them."""
    scored = splits.holdout if len(splits.holdout) else splits.development
    seen = np.intersect1d(splits.train, scored)
    if len(seen):
        yield finding(
            "seen_by_trunk",
            "high",
            (images.names[i] for i in seen),
            f"the trunk learned from {len(seen):,} of the {len(scored):,} images "
            f"({100 * len(seen) / len(scored):.0f} %) that the heads are scored on: score on a "
            "hold-out, as protocol clean does",
        )
