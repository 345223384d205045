"""Read a finished run directory back: what every study writes and every report needs.

`result.json` is required and checked field by field; every other file is optional, because a
report of what is there beats no report. No pickled array is ever loaded.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NotRequired

import numpy as np
from pydantic import (
    AfterValidator,
    Field,
    FiniteFloat,
    NonNegativeInt,
    TypeAdapter,
    ValidationError,
)
from typing_extensions import TypedDict  # pydantic needs this one before Python 3.12

from qgraft.errors import RunError
from qgraft.evaluation.audit.findings import Finding
from qgraft.training.checkpoint import read_json

MAX_ARRAY_BYTES = 2**30


class Row(TypedDict):
    """One scored model; every score and reduction is a fraction, 1.0 meaning 100 %."""

    model: str
    variant: str
    replaced: NonNegativeInt
    n_features: NonNegativeInt
    params: NonNegativeInt
    trainable: NonNegativeInt
    removed: NonNegativeInt
    head_params: NonNegativeInt
    reduction_whole: FiniteFloat | None
    reduction_block: FiniteFloat | None
    f1_mean: FiniteFloat
    f1_std: FiniteFloat
    f1_best: FiniteFloat
    accuracy_mean: FiniteFloat
    accuracy_std: FiniteFloat
    precision_mean: FiniteFloat
    recall_mean: FiniteFloat
    auc_mean: FiniteFloat | None
    confusion: list[list[NonNegativeInt]]
    n_folds: NonNegativeInt
    scored_on: str
    fold_f1_mean: NotRequired[FiniteFloat | None]
    fold_f1_std: NotRequired[FiniteFloat | None]
    published_f1: NotRequired[FiniteFloat | None]
    published_params: NotRequired[NonNegativeInt | None]


class ShortcutControl(TypedDict):
    """The score of a model that sees only how blurred an image is."""

    f1: FiniteFloat | None
    auc: FiniteFloat | None
    label: str


class DataSummary(TypedDict):
    """How many images there are, of what, and what is odd about them."""

    n_images: NonNegativeInt
    per_class: NotRequired[dict[str, NonNegativeInt]]
    n_photographs: NotRequired[NonNegativeInt | None]
    class_names: list[str]
    findings: list[str]


class HeadScores(TypedDict):
    """All heads of one kind: `scores` holds the F1 of each seed and fold."""

    model: str
    variant: str
    head: str
    says: str
    head_params: NonNegativeInt
    f1_mean: FiniteFloat
    f1_std: FiniteFloat
    scores: Annotated[list[Annotated[list[FiniteFloat], Field(min_length=1)]], Field(min_length=1)]


class Comparison(TypedDict):
    """A quantum head minus one of its controls, paired; fractions."""

    model: str
    variant: str
    control: str
    says: str
    hybrid_params: NonNegativeInt
    control_params: NonNegativeInt
    hybrid_f1: FiniteFloat
    control_f1: FiniteFloat
    difference: FiniteFloat
    std: FiniteFloat
    low: FiniteFloat
    high: FiniteFloat
    seeds_low: FiniteFloat | None
    seeds_high: FiniteFloat | None
    p_value: FiniteFloat
    p_adjusted: FiniteFloat


class Evidence(TypedDict):
    """Whether the quantum part helps; the first sentence sums up, then one per comparison."""

    method: str
    rows: Annotated[list[HeadScores], Field(min_length=1)]
    comparisons: Annotated[list[Comparison], Field(min_length=1)]
    sentences: Annotated[list[str], Field(min_length=1)]


class ReliabilityCurve(TypedDict):
    """Bins of about equally many scores: mean score, share of anomalous images, images."""

    predicted: Annotated[list[FiniteFloat], Field(min_length=1)]
    observed: list[FiniteFloat]
    count: list[Annotated[int, Field(ge=1)]]


def _same_lengths(curve: ReliabilityCurve) -> ReliabilityCurve:
    if not len(curve["predicted"]) == len(curve["observed"]) == len(curve["count"]):
        raise ValueError("its lists are of different lengths")
    return curve


class ScoreQuality(TypedDict):
    """How far scores on the hold-out are from probabilities."""

    calibration_error: FiniteFloat
    calibration_error_interval: tuple[FiniteFloat, FiniteFloat]
    curve: Annotated[ReliabilityCurve, AfterValidator(_same_lengths)]


class HoldoutDecisions(TypedDict):
    """Scores of the hold-out, as they are and calibrated on validation images."""

    quality: Annotated[dict[str, ScoreQuality], Field(min_length=1)]


class Decisions(TypedDict):
    """The part of `thresholds.json` that a report uses."""

    holdout: NotRequired[HoldoutDecisions]


class Result(TypedDict):
    """The content of `result.json` that a report uses."""

    study: str
    protocol: str | None
    rows: Annotated[list[Row], Field(min_length=1)]
    shortcut_control: ShortcutControl | None
    notes: list[str]
    data: DataSummary
    audit: NotRequired[list[Finding]]
    evidence: NotRequired[Evidence]


@dataclass(frozen=True)
class Picture:
    """One image, uint8 `(h, w)` or `(h, w, 3)`, with the words that belong to it."""

    pixels: np.ndarray
    words: Mapping[str, Any]


@dataclass(frozen=True)
class FinishedRun:
    """Everything a report can show; what the run did not write is empty.

    Attributes:
        curves: row key to folds to epochs to named numbers.
        predictions: row key to (labels int64 `(n,)`, scores float32 `(n,)`).
    """

    result: Result
    config: Mapping[str, Any]
    env: Mapping[str, Any]
    data: Mapping[str, Any]
    timings: Mapping[str, float]
    curves: Mapping[str, list[list[Mapping[str, float | None]]]]
    predictions: Mapping[str, tuple[np.ndarray, np.ndarray]]
    decisions: Mapping[str, Decisions]
    mistakes: tuple[Picture, ...]
    samples: tuple[Picture, ...]


def row_key(row: Row) -> str:
    """Return the name that curves, timings and predictions use for `row`."""
    return f"{row['model']}/{row['variant']}"


def read_run(run: Path) -> FinishedRun:
    """Read the files of the finished run in `run`.

    Raises:
        RunError: the folder holds no result, or a file in it is damaged.
    """
    if not (run / "result.json").is_file():
        raise RunError(
            f"{run} holds no result.json: a report needs the folder of a finished run; "
            "give that folder, or continue the run until it is done"
        )
    result = _checked(run / "result.json", Result)
    return FinishedRun(
        result=result,
        config=_optional(run / "config.json", dict[str, Any]),
        env=_optional(run / "env.json", dict[str, Any]),
        data=_optional(run / "data.json", dict[str, Any]),
        timings=_optional(run / "timings.json", dict[str, FiniteFloat]),
        curves=_optional(run / "curves.json", dict[str, list[list[dict[str, FiniteFloat | None]]]]),
        predictions=_predictions(run / "predictions.npz", result["rows"]),
        decisions=_optional(run / "thresholds.json", dict[str, Decisions]),
        mistakes=_pictures(run / "mistakes.npz"),
        samples=_pictures(run / "samples.npz"),
    )


def _checked(path: Path, shape: Any) -> Any:
    try:
        return TypeAdapter(shape).validate_python(read_json(path))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "the whole file"
        raise RunError(
            f"{path}: {place}: {first['msg']} (and {error.error_count() - 1} more); the file "
            "was changed or comes from another version: run again to write it anew"
        ) from None


def _optional(path: Path, shape: Any) -> Any:
    return _checked(path, shape) if path.is_file() else {}


def _arrays(path: Path) -> dict[str, np.ndarray]:
    if not path.is_file():
        return {}
    try:
        with path.open("rb") as handle:
            archive = np.load(handle, allow_pickle=False)
            if isinstance(archive, np.ndarray):
                raise ValueError("it holds one array without a name")
            unpacked = sum(member.file_size for member in archive.zip.infolist())
            if unpacked > MAX_ARRAY_BYTES:
                raise ValueError(f"it unpacks to {unpacked:,} bytes, more than {MAX_ARRAY_BYTES:,}")
            arrays = {name: archive[name] for name in archive.files}
            if not all(isinstance(array, np.ndarray) for array in arrays.values()):
                raise ValueError("it holds something that is no array")
            return arrays
    except Exception as error:  # zip and NumPy meet damaged bytes with exceptions of every type
        raise RunError(
            f"{path} is not a readable npz file ({error}); delete it and run again, or leave it "
            "deleted: the report then goes without it"
        ) from None


def _predictions(path: Path, rows: list[Row]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    arrays = _arrays(path)
    found = {}
    for key in map(row_key, rows):
        stem = key.replace("/", "__")
        labels, scores = arrays.get(f"{stem}.labels"), arrays.get(f"{stem}.scores")
        if labels is None or scores is None:
            continue
        if labels.ndim != 1 or len(labels) != len(scores):
            raise RunError(
                f"{path}: {key} has labels {labels.shape} and scores {scores.shape}; they must "
                "be one-dimensional and equally many: run again to write them anew"
            )
        found[key] = labels, scores
    return found


def _pictures(path: Path) -> tuple[Picture, ...]:
    images = _arrays(path).get("images")
    if images is None:
        return ()
    words = _checked(path.with_suffix(".json"), list[dict[str, Any]])
    grey_or_colour = images.ndim == 3 or (images.ndim == 4 and images.shape[-1] == 3)
    if images.dtype != np.uint8 or not grey_or_colour or len(images) != len(words):
        raise RunError(
            f"{path} holds images {images.dtype} {images.shape} for {len(words)} descriptions; "
            "expected as many uint8 images (m, h, w) or (m, h, w, 3): run again to write them anew"
        )
    return tuple(Picture(pixels, text) for pixels, text in zip(images, words, strict=True))
