"""What is wrong with a data set and its splits, before anybody believes a score.

Every check is a function from images and splits to findings; a finding says what was found, how
bad it is, where, and what to do. Clean data gives none.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from typing import Literal, TypedDict

import numpy as np

from qgraft.data.imageset import ImageSet, Photographs
from qgraft.data.splits import Splits
from qgraft.data.surface import CUT_MARK
from qgraft.evaluation.shortcuts import as_grey, radial_spectrum
from qgraft.seeds import derive

Severity = Literal["high", "medium", "low"]

N_THUMB = 16
NEAR_DUPLICATE = 0.995  # correlation of 16 x 16 thumbnails
SHORTCUT_AUC = 0.65
IMBALANCE = 3.0
N_NAMED = 5


class Finding(TypedDict):
    """One thing a reader should know."""

    kind: str
    severity: Severity
    where: list[str]
    message: str


def audit(images: ImageSet, splits: Splits | None = None) -> list[Finding]:
    """Return all findings about images and, where given, their splits; worst first."""
    found = [*class_balance(images), *shortcuts(images), *label_noise(images)]
    if splits is not None:
        parts = _parts(splits)
        found += [*shared_images(images, parts), *shared_photographs(images, parts)]
        found += [*near_duplicates(images, parts), *seen_by_trunk(images, splits)]
    order = ("high", "medium", "low")
    return sorted(found, key=lambda finding: order.index(finding["severity"]))


def _parts(splits: Splits) -> dict[str, np.ndarray]:
    """Return the parts that must share nothing: the hold-out, or else the selection part."""
    if len(splits.holdout):
        return {"development": splits.development, "hold-out": splits.holdout}
    return {"training": splits.train, "test": splits.select}


def _named(images: ImageSet, index: np.ndarray) -> list[str]:
    return [images.names[i] for i in index[:N_NAMED]]


def class_balance(images: ImageSet) -> Iterator[Finding]:
    """Report classes that are several times rarer than the most frequent."""
    counts = np.bincount(images.labels, minlength=len(images.class_names))
    rare = [i for i, n in enumerate(counts) if n * IMBALANCE < counts.max()]
    if rare:
        listed = ", ".join(f"{images.class_names[i]} {counts[i]}" for i in rare)
        yield {
            "kind": "class_balance",
            "severity": "medium",
            "where": [images.class_names[i] for i in rare],
            "message": f"{listed} images against {counts.max()}: read F1 and recall, not accuracy",
        }


def shared_images(images: ImageSet, parts: Mapping[str, np.ndarray]) -> Iterator[Finding]:
    """Report images with equal pixels on both sides of a split."""
    first, second = parts
    hashes = [hashlib.sha256(image.tobytes()).digest() for image in images.images]
    known = {hashes[i] for i in parts[first]}
    shared = np.array([i for i in parts[second] if hashes[i] in known], dtype=np.int64)
    if len(shared):
        yield {
            "kind": "shared_images",
            "severity": "high",
            "where": _named(images, shared),
            "message": f"{len(shared)} {second} images have the pixels of a {first} image: "
            "remove the copies or keep them on one side",
        }


def shared_photographs(images: ImageSet, parts: Mapping[str, np.ndarray]) -> Iterator[Finding]:
    """Report photographs whose crops are on both sides of a split."""
    first, second = parts
    torn = np.isin(images.groups[parts[second]], images.groups[parts[first]])
    shared = parts[second][torn]
    if len(shared):
        yield {
            "kind": "shared_photographs",
            "severity": "high",
            "where": _named(images, shared),
            "message": f"{len(shared)} of {len(parts[second])} {second} images come from "
            f"photographs that {first} has seen: split by photograph (protocol clean)",
        }


def near_duplicates(images: ImageSet, parts: Mapping[str, np.ndarray]) -> Iterator[Finding]:
    """Report images that are nearly the same across a split, equal pixels aside."""
    first, second = parts
    thumbs = _thumbnails(images.images)
    known, pairs = parts[first], []
    for start in range(0, len(parts[second]), 256):
        block = parts[second][start : start + 256]
        alike = thumbs[block] @ thumbs[known].T
        for row, column in zip(*np.nonzero(alike > NEAR_DUPLICATE), strict=True):
            i, j = block[row], known[column]
            if not np.array_equal(images.images[i], images.images[j]):
                pairs.append((i, j))
    if pairs:
        yield {
            "kind": "near_duplicates",
            "severity": "medium",
            "where": [f"{images.names[i]} ~ {images.names[j]}" for i, j in pairs[:N_NAMED]],
            "message": f"{len({i for i, _ in pairs})} {second} images look almost like a {first} "
            "image: give such images one group",
        }


def _thumbnails(images: np.ndarray) -> np.ndarray:
    """Return small grey versions `(n, 256)`, each with mean 0 and length 1."""
    size = images.shape[1] // N_THUMB * N_THUMB, images.shape[2] // N_THUMB * N_THUMB
    thumbs = np.empty((len(images), N_THUMB**2), dtype=np.float32)
    for row, image in enumerate(images):
        grey = as_grey(image[: size[0], : size[1]])
        cells = grey.reshape(N_THUMB, size[0] // N_THUMB, N_THUMB, size[1] // N_THUMB)
        thumbs[row] = cells.mean((1, 3)).ravel()
    thumbs -= thumbs.mean(1, keepdims=True)
    lengths = np.linalg.norm(thumbs, axis=1, keepdims=True)
    # A flat image is like every other flat image only if it is equal, which is checked elsewhere.
    return np.divide(thumbs, lengths, out=np.zeros_like(thumbs), where=lengths > N_THUMB)


def seen_by_trunk(images: ImageSet, splits: Splits) -> Iterator[Finding]:
    """Report fold images that the trunk learned from."""
    seen = np.intersect1d(splits.train, splits.development)
    if len(seen) and not len(splits.holdout):
        share = len(seen) / len(splits.development)
        yield {
            "kind": "seen_by_trunk",
            "severity": "high",
            "where": _named(images, seen),
            "message": f"the trunk learned from {100 * share:.0f} % of the images the heads are "
            "scored on: score on a hold-out (protocol clean)",
        }


def shortcuts(images: ImageSet) -> Iterator[Finding]:
    """Report properties that tell the classes apart without looking at a defect."""
    properties = {
        "brightness": np.array([image.mean() for image in images.images]),
        "blur": np.array([_detail(image) for image in images.images]),
    }
    sides = [name.split(CUT_MARK)[-1].split(",")[-1] for name in images.names]
    known = [float(side) if side.isdigit() else float(images.images.shape[1]) for side in sides]
    properties["size"] = np.array(known)
    for kind, values in properties.items():
        auc = _separation(values, images)
        if auc > SHORTCUT_AUC:
            yield {
                "kind": f"shortcut_{kind}",
                "severity": "high" if auc > 0.8 else "medium",
                "where": [],
                "message": f"{kind} alone tells the classes apart with AUC {auc:.2f}: a model may "
                "learn that instead of defects; match it between the classes",
            }


def _detail(image: np.ndarray) -> float:
    """Return the mean absolute Laplacian: low means blurred."""
    pixels = as_grey(image)
    inner = pixels[1:-1, 1:-1]
    around = pixels[:-2, 1:-1] + pixels[2:, 1:-1] + pixels[1:-1, :-2] + pixels[1:-1, 2:]
    return float(np.abs(around - 4 * inner).mean())


def _separation(values: np.ndarray, images: ImageSet) -> float:
    """Return the best one-against-rest AUC, in either direction."""
    from sklearn.metrics import roc_auc_score

    best = 0.5
    for label in range(len(images.class_names)):
        member = images.labels == label
        if 0 < member.sum() < len(member):
            auc = float(roc_auc_score(member, values))
            best = max(best, auc, 1 - auc)
    return best


def label_noise(images: ImageSet, *, n_folds: int = 5, seed: int = 0) -> Iterator[Finding]:
    """Report images that a simple model, which has not seen them, confidently calls otherwise.

    The model is a logistic regression on thumbnails and the radial spectrum; it is consulted only
    where it is itself good enough to be believed.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedGroupKFold, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    counts = np.bincount(images.labels, minlength=len(images.class_names))
    if counts.min() < 4 * n_folds:
        return
    simple = np.hstack([_thumbnails(images.images), radial_spectrum(images.images)])
    folds = StratifiedGroupKFold(
        n_folds, shuffle=True, random_state=derive(seed, "label noise") % 2**32
    )
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000, C=0.01))
    probabilities = np.asarray(
        cross_val_predict(
            model, simple, images.labels, groups=images.groups, cv=folds, method="predict_proba"
        )
    )
    accuracy = (probabilities.argmax(1) == images.labels).mean()
    own = probabilities[np.arange(len(images)), images.labels]
    doubtful = np.flatnonzero(own < 0.02)
    if accuracy > 0.95 and len(doubtful):
        doubtful = doubtful[np.argsort(own[doubtful])]
        yield {
            "kind": "label_noise",
            "severity": "medium",
            "where": _named(images, doubtful),
            "message": f"{len(doubtful)} images look like another class to a simple model that is "
            f"right {100 * accuracy:.0f} % of the time: look at them",
        }


def foreign_boxes(photographs: Photographs) -> Iterator[Finding]:
    """Report boxes that carry another class than their photograph."""
    foreign = [
        name
        for name, defect, boxes in zip(
            photographs.names, photographs.defects, photographs.boxes, strict=True
        )
        if any(box.label != defect for box in boxes)
    ]
    if foreign:
        yield {
            "kind": "mislabelled_boxes",
            "severity": "low",
            "where": foreign[:N_NAMED],
            "message": f"{len(foreign)} photographs hold boxes of another class than their name: "
            "the file name decides here",
        }
