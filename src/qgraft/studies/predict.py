"""A finished run and image files -> scores, as fast as the trunk runs."""

from __future__ import annotations

import csv
import glob
import io
import json
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypedDict

import numpy as np
import torch

from qgraft.data.images import read_image
from qgraft.data.tree import IMAGE_SUFFIXES
from qgraft.errors import ConfigError, DataError, ImageError, RunError
from qgraft.evaluation.thresholds import parse_rule
from qgraft.grafting import GraftedModel, graft
from qgraft.studies.decisions import Decision, read_decision
from qgraft.studies.two_stage import MODELS_FILE
from qgraft.training.checkpoint import read_json
from qgraft.training.kept import load_trained
from qgraft.training.loop import as_float, keep_freed_memory
from qgraft.trunks.registry import build_trunk
from qgraft.trunks.surface_cnn import INPUT_SIZE

BATCH = 64


class Fitted(NamedTuple):
    """A model ready to use, and what its outputs mean."""

    model: GraftedModel
    class_names: tuple[str, ...]
    channels: Literal[1, 3]
    decision: Decision = Decision()


class Prediction(TypedDict):
    """One scored image.

    `pred_score` is the probability of `anomalous` where there are two classes, calibrated if that
    was asked for, else that of the predicted class; `pred_label` is the number of the predicted
    class, by the threshold if one was asked for, and `pred_class` its name.
    """

    path: str
    pred_score: float
    pred_label: int
    pred_class: str


def load_fitted(
    folder: Path,
    variant: str | None = None,
    *,
    threshold: str | None = None,
    calibrated: bool = False,
) -> Fitted:
    """Rebuild a grafted model from its run directory.

    Args:
        folder: a finished run.
        variant: which of its hybrids, as "CM-2/QTL-M-3"; when not given, the one with the best
            mean F1 on its folds.
        threshold: how to choose the score an image is anomalous from, such as `f1` or
            `recall:0.99`; when not given, the more probable class is predicted. Chosen thresholds
            and calibration belong to the decision head, which is then used.
        calibrated: whether scores become calibrated probabilities, thresholds included.

    Raises:
        ConfigError: no such threshold, or one that does not fit the classes.
        DataError: the validation images do not allow this threshold.
        RunError: the run is not finished, or has no such hybrid.
        WeightsError: a weights file is missing or damaged.
    """
    models = read_json(folder / MODELS_FILE)
    rows = read_json(folder / "result.json")
    try:
        variant = variant or _best_variant(models, rows["rows"])
        chosen = calibrated or (threshold is not None and parse_rule(threshold).kind != "at")
        fitted = _rebuild(folder, models, variant, decides=chosen)
    except (KeyError, TypeError, AttributeError, ValueError, RuntimeError, MemoryError) as error:
        raise RunError(
            f"{MODELS_FILE} or result.json in {folder} is damaged ({error!r}); run again"
        ) from None
    if threshold is None and not calibrated:
        return fitted
    if len(fitted.class_names) != 2:
        raise ConfigError(
            f"thresholds and calibration need two classes, this model has {len(fitted.class_names)}"
        )
    decision = read_decision(folder, variant, rule=threshold, calibrated=calibrated)
    return fitted._replace(decision=decision)


def _best_variant(models: dict[str, Any], rows: list[dict[str, Any]]) -> str:
    """Return the hybrid with the best F1 on the folds, never by the hold-out."""
    f1 = {f"{row['model']}/{row['variant']}": row["fold_f1_mean"] or row["f1_mean"] for row in rows}
    return max(models, key=lambda key: f1[key])


def _rebuild(folder: Path, models: dict[str, Any], variant: str, *, decides: bool) -> Fitted:
    if variant not in models:
        raise RunError(f"{folder} has no hybrid {variant!r}; it has {', '.join(models)}")
    entry = models[variant]
    if entry["channels"] not in (1, 3) or not 2 <= len(entry["class_names"]) <= 10_000:
        raise ValueError(f"channels {entry['channels']!r}, {len(entry['class_names'])} classes")
    network = build_trunk(
        entry["trunk"], channels=entry["channels"], n_classes=len(entry["class_names"])
    )
    load_trained(folder / entry["trunk_file"], network)
    model = graft(
        network.to(memory_format=torch.channels_last),  # pyright: ignore[reportCallIssue]
        replace_last=entry["replace_last"],
        head=entry["head"],
        **entry["head_options"],
    )
    own = entry.get("decision_head_file") if decides else None
    load_trained(folder / (own or entry["head_file"]), model.head)
    return Fitted(model.eval(), tuple(entry["class_names"]), entry["channels"])


def find_images(arguments: Sequence[str]) -> list[Path]:
    """Return the image files named by files, folders (searched through) and glob patterns.

    Raises:
        DataError: an argument names nothing.
    """
    found: list[Path] = []
    for argument in arguments:
        path = Path(argument)
        if path.is_dir():
            inside = sorted(p for p in path.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES)
        else:
            matches = map(Path, glob.glob(argument, recursive=True))
            inside = [path] if path.is_file() else sorted(p for p in matches if p.is_file())
        if not inside:
            raise DataError(f"{argument} names no image: no such file, empty folder or pattern")
        odd = [p for p in inside if not str(p).isprintable()]
        if odd:
            raise DataError(f"file name {str(odd[0])!r} has characters that cannot be printed")
        found += inside
    return list(dict.fromkeys(found))


def predict(
    fitted: Fitted, paths: Sequence[Path], *, on_error: Literal["fail", "skip"] = "fail"
) -> Iterator[Prediction | ImageError]:
    """Score images in order, decoding the next batch while the network works on this one.

    Yields an `ImageError` in place of a file that cannot be read with `on_error="skip"`.

    Raises:
        ImageError: a file cannot be read.
    """
    keep_freed_memory()

    def read(path: Path) -> np.ndarray | ImageError:
        try:
            return read_image(path, channels=fitted.channels, size=INPUT_SIZE)
        except ImageError as error:
            return error

    batches = [paths[start : start + BATCH] for start in range(0, len(paths), BATCH)]
    with ThreadPoolExecutor(2) as readers:
        coming = [readers.submit(read, path) for path in (batches[0] if batches else ())]
        for number, batch in enumerate(batches):
            images = [future.result() for future in coming]
            following = batches[number + 1] if number + 1 < len(batches) else ()
            coming = [readers.submit(read, path) for path in following]
            yield from _score_batch(fitted, batch, images, on_error)


def _score_batch(
    fitted: Fitted,
    paths: Iterable[Path],
    images: Sequence[np.ndarray | ImageError],
    on_error: Literal["fail", "skip"],
) -> Iterator[Prediction | ImageError]:
    good = [image for image in images if isinstance(image, np.ndarray)]
    probabilities = iter(_probabilities(fitted, good) if good else ())
    for path, image in zip(paths, images, strict=True):
        if isinstance(image, ImageError):
            if on_error == "fail":
                raise image
            yield image
            continue
        score, label = _decide(next(probabilities), fitted.decision)
        yield {
            "path": str(path),
            "pred_score": score,
            "pred_label": label,
            "pred_class": fitted.class_names[label],
        }


def _decide(row: np.ndarray, decision: Decision) -> tuple[float, int]:
    """Return the score and the predicted class of an image from its class probabilities."""
    label = int(row.argmax())
    score = float(row[1] if len(row) == 2 else row[label])
    if decision.calibration is not None:
        score = float(decision.calibration.apply(np.array(score)))
        label = int(score >= 0.5)
    return score, label if decision.threshold is None else int(score >= decision.threshold)


@torch.inference_mode()
def _probabilities(fitted: Fitted, images: Sequence[np.ndarray]) -> np.ndarray:
    pixels = torch.from_numpy(np.stack(images))
    pixels = pixels[:, None] if pixels.ndim == 3 else pixels.permute(0, 3, 1, 2)
    return fitted.model(as_float(pixels)).softmax(-1).numpy()


def format_predictions(rows: Sequence[Prediction], kind: Literal["csv", "json"]) -> str:
    """Return the predictions as CSV with a header, or as a JSON list."""
    if kind == "json":
        return json.dumps(rows, indent=2) + "\n"
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, list(Prediction.__annotations__), lineterminator="\n")
    writer.writeheader()
    writer.writerows(_csv_row(row) for row in rows)
    return buffer.getvalue()


def _csv_row(row: Prediction) -> dict[str, Any]:
    # A cell that starts like a formula would be run by a spreadsheet.
    path = f"'{row['path']}" if row["path"][:1] in "=+-@" else row["path"]
    return {**row, "path": path, "pred_score": f"{row['pred_score']:.6f}"}
