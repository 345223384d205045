"""Images that are there more than once: equal, or nearly so, also turned or mirrored.

Near-duplicates are sought in two steps. The nearest neighbour of every image, under the eight
turns and reflections of a square, is found on copies of 16 x 16 pixels as one matrix product
per block; the pair is then judged on 64 x 64 pixels. Both copies lose what varies slowly, since
steel photographs of one camera share their illumination.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from itertools import combinations
from typing import NamedTuple

import numpy as np

from qgraft.evaluation.audit.evidence import N_SMALL, N_TINY, Evidence
from qgraft.evaluation.audit.findings import Finding, counted, finding

Parts = Mapping[str, np.ndarray]

# Correlation of small copies. Measured: 0.88 between different scratches of NEU-DET, 0.92 and
# 0.96 for its two pairs that show one place; a JPEG of quality 30 keeps 0.9 in most photographs.
ALIKE = 0.9
# In a set of look-alikes, such as digits, 0.9 is nothing: a pair must stand out from the nearest
# neighbours of the set by this much, in Fisher's z = atanh(correlation) ...
STANDS_OUT = 1.4
# ... but never needs more than this, or a set made of copies only would hide them all.
SURELY_ALIKE = 0.98
BLOCK = 512
_WINDOWS = {N_TINY: 5, N_SMALL: 9}  # what varies more slowly than this many pixels is removed


class Twins(NamedTuple):
    """Pairs that look alike: indices `(m,)` of an image and of its nearest neighbour."""

    image: np.ndarray
    other: np.ndarray


def shared_images(evidence: Evidence, parts: Parts) -> Iterator[Finding]:
    """Report images with equal pixels on both sides of a split."""
    for first, second in combinations(parts, 2):
        known = {evidence.digests[i]: i for i in reversed(parts[first])}
        pairs = [(i, known.get(evidence.digests[i])) for i in parts[second]]
        shared = [(i, j) for i, j in pairs if j is not None]
        if shared:
            yield finding(
                "shared_images",
                "high",
                (f"{evidence.names[i]} = {evidence.names[j]}" for i, j in shared),
                f"{len(shared)} of {len(parts[second])} {second} images with the pixels of a "
                f"{first} image: remove the copies or keep them on one side",
            )


def shared_photographs(evidence: Evidence, parts: Parts) -> Iterator[Finding]:
    """Report groups with images on both sides of a split, equal pixels aside."""
    for first, second in combinations(parts, 2):
        inside = set(evidence.groups[parts[first]].tolist())
        copied = {evidence.digests[i] for i in parts[first]}
        shared = [
            i
            for i in parts[second]
            if evidence.groups[i] in inside and evidence.digests[i] not in copied
        ]
        if shared:
            yield finding(
                "shared_photographs",
                "high",
                (evidence.names[i] for i in shared),
                f"{len(shared)} of {len(parts[second])} {second} images from photographs (groups) "
                f"that are also in {first}: split by photograph, as protocol clean does",
            )


def repeated_images(evidence: Evidence, parts: Parts) -> Iterator[Finding]:
    """Report equal pixels within one part, and equal pixels under different labels anywhere."""
    side = _sides(len(evidence), parts)
    copies: dict[bytes, list[int]] = defaultdict(list)
    for i, digest in enumerate(evidence.digests):
        copies[digest].append(i)
    repeated, contradicting = [], []
    for first, *others in copies.values():
        for other in others:
            pair = f"{evidence.names[other]} = {evidence.names[first]}"
            if evidence.labels[other] != evidence.labels[first]:
                contradicting.append(pair)
            elif side[other] == side[first]:
                repeated.append(pair)
    if contradicting:
        yield finding(
            "contradicting_labels",
            "high",
            contradicting,
            f"{counted(contradicting, 'image')} with the pixels of an image of another class: at "
            "least one of the two labels is wrong, look and correct it",
        )
    if repeated:
        yield finding(
            "repeated_images",
            "low",
            repeated,
            f"{counted(repeated, 'copy', 'copies')} of images that are already there and so "
            "count twice: keep one of each, or give copies one group",
        )


def near_duplicates(
    evidence: Evidence, parts: Parts, compared: np.ndarray | None = None
) -> Iterator[Finding]:
    """Report images that look alike without being equal, across a split or across groups.

    Args:
        evidence: of all images.
        parts: the sides of the split.
        compared: the images to look at, by default all.
    """
    side = _sides(len(evidence), parts)
    everyone = np.arange(len(evidence))
    if compared is not None:
        everyone = compared
        parts = {name: members[np.isin(members, compared)] for name, members in parts.items()}
    for first, second in combinations(parts, 2):
        across = twins(evidence, parts[second], parts[first])
        if len(across.image):
            yield finding(
                "near_duplicates",
                "high",
                _pairs(evidence, across),
                f"{len(across.image)} of {len(parts[second])} {second} images almost like a "
                f"{first} image, perhaps turned or mirrored: look, and give such images one group",
            )
    within = twins(evidence, everyone, everyone)
    # Neighbours on different sides are reported above; of two that found each other, one stays.
    mutual = dict(zip(within.image.tolist(), within.other.tolist(), strict=True))
    kept = [
        k
        for k, (i, j) in enumerate(zip(*within, strict=True))
        if side[i] == side[j] and not (mutual.get(int(j)) == i and j < i)
    ]
    if kept:
        pairs = Twins(within.image[kept], within.other[kept])
        yield finding(
            "near_duplicates",
            "medium",
            _pairs(evidence, pairs),
            f"{counted(kept, 'pair')} of images almost alike, perhaps turned or mirrored, but "
            "not of one group: folds may part them; look, and give each pair one group",
        )


def twins(evidence: Evidence, images: np.ndarray, others: np.ndarray) -> Twins:
    """Return which `images` look like one of the `others` without sharing its group or pixels."""
    if not len(images) or not len(others):
        return Twins(np.empty(0, np.int64), np.empty(0, np.int64))
    number = {digest: n for n, digest in enumerate(dict.fromkeys(evidence.digests))}
    pixels = np.array([number[digest] for digest in evidence.digests])
    known = _details(evidence.tiny(others)).T
    tiny = evidence.tiny(images)
    turned = [_details(_turned(tiny, turn)) for turn in range(8)]
    best = np.zeros(len(images), dtype=np.float32)
    nearest, turns = np.zeros(len(images), dtype=np.int64), np.zeros(len(images), dtype=np.int64)
    for start in range(0, len(images), BLOCK):
        rows = slice(start, start + BLOCK)
        block = images[rows]
        own = evidence.groups[block][:, None] == evidence.groups[others]
        own |= pixels[block][:, None] == pixels[others]
        for turn in range(8):
            alike = turned[turn][rows] @ known
            alike[own] = 0.0
            column = alike.argmax(1)
            value = alike[np.arange(len(block)), column]
            better = value > best[rows]
            best[rows][better] = value[better]
            nearest[rows][better] = column[better]
            turns[rows][better] = turn
    alike = _verified(evidence.small, images, others[nearest], turns)
    alike[best == 0] = 0.0
    found = alike >= _limit(alike)
    return Twins(images[found], others[nearest[found]])


def _verified(
    small: np.ndarray, images: np.ndarray, others: np.ndarray, turns: np.ndarray
) -> np.ndarray:
    """Return the correlation `(n,)` of each image, turned, with its neighbour."""
    alike = np.empty(len(images), dtype=np.float32)
    for turn in range(8):
        for rows in np.array_split(np.flatnonzero(turns == turn), 1 + len(images) // BLOCK):
            mine = _details(_turned(small[images[rows]], turn))
            alike[rows] = (mine * _details(small[others[rows]])).sum(1)
    return alike


def _limit(alike: np.ndarray) -> float:
    """Return how alike a pair must be, given how alike the nearest neighbours of the set are."""
    typical = np.arctanh(np.clip(np.median(alike), 0.0, SURELY_ALIKE))
    return float(np.clip(np.tanh(typical + STANDS_OUT), ALIKE, SURELY_ALIKE))


def _turned(images: np.ndarray, turn: int) -> np.ndarray:
    """Return images `(n, s, s)` under one of the eight symmetries of the square."""
    rotated = np.rot90(images, turn % 4, (1, 2))
    return rotated[:, :, ::-1] if turn >= 4 else rotated


def _details(images: np.ndarray) -> np.ndarray:
    """Return `(n, s * s)`: what varies quickly, mean 0 and length 1, or 0 for flat images."""
    from scipy.ndimage import uniform_filter

    pixels = images.astype(np.float32)
    window = _WINDOWS[images.shape[1]]
    pixels -= uniform_filter(pixels, window, mode="nearest", axes=(1, 2))
    rows = pixels.reshape(len(pixels), images.shape[1] ** 2)
    rows -= rows.mean(1, keepdims=True)
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    flat = 0.1 * images.shape[1]  # a tenth of a grey level in each pixel is rounding
    return np.divide(rows, lengths, out=np.zeros_like(rows), where=lengths > flat)


def _sides(n: int, parts: Parts) -> np.ndarray:
    """Return the number of the part each image is in; -1 for none."""
    side = np.full(n, -1)
    for number, members in enumerate(parts.values()):
        side[members] = number
    return side


def _pairs(evidence: Evidence, pairs: Twins) -> list[str]:
    return [f"{evidence.names[i]} ~ {evidence.names[j]}" for i, j in zip(*pairs, strict=True)]
