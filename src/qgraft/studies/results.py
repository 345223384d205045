"""Predictions of repeats (initialisations or folds) -> rows of a result, and a run's files."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from qgraft.data.imageset import ImageSet
from qgraft.data.splits import Splits
from qgraft.evaluation.metrics import Scores, score
from qgraft.studies.classical import Trained
from qgraft.studies.hybrid import Grafted
from qgraft.training.checkpoint import atomic_write, write_json
from qgraft.training.kept import EpochRecord

N_MISTAKES = 12
N_SAMPLES = 6


class Findings:
    """What a study has found so far; `write` leaves it in the run directory."""

    def __init__(self, images: ImageSet, splits: Splits) -> None:
        self.images = images
        self.splits = splits
        self.rows: list[dict[str, Any]] = []
        self.curves: dict[str, list[list[EpochRecord]]] = {}
        self.predictions: dict[str, tuple[np.ndarray, np.ndarray]] = {}

    def add_classical(self, name: str, trained: Trained) -> None:
        """Add the row of a classical network: the initialisation kept, and the spread of all."""
        n_parameters = sum(p.numel() for p in trained.model.parameters())
        labels = self.images.labels[trained.scored]
        kept = trained.probabilities[trained.kept]
        init_mean, init_std = _spread(score(p, labels)["f1"] for p in trained.probabilities)
        self._add(
            name,
            "classical",
            [score(kept, labels)],
            (trained.scored, kept),
            trained.curves,
            scored_on=self._scored_on(f"random test part, {len(self.splits.select)} images"),
            init_f1_mean=init_mean,
            init_f1_std=init_std,
            n_inits=len(trained.probabilities),
            params=n_parameters,
            trainable=n_parameters,
        )

    def add_hybrid(self, name: str, variant: str, replaced: int, grafted: Grafted) -> None:
        """Add the row of a hybrid: its folds, scored on the hold-out where there is one."""
        labels, splits = self.images.labels, self.splits
        folds = [
            score(p, labels[fold])
            for p, fold in zip(grafted.fold_probabilities, splits.folds, strict=True)
        ]
        extra: dict[str, Any] = {}
        if grafted.final_probabilities is not None:
            held_labels = labels[splits.holdout]
            scores = [score(p, held_labels) for p in grafted.holdout_probabilities]
            predictions = (splits.holdout, grafted.final_probabilities)
            extra["fold_f1_mean"], extra["fold_f1_std"] = _spread(s["f1"] for s in folds)
            final = score(grafted.final_probabilities, held_labels)
            extra["final_f1"], extra["confusion"] = final["f1"], final["confusion"]
        else:
            scores = folds
            order = np.concatenate(splits.folds)
            predictions = (order, np.concatenate(grafted.fold_probabilities))
        report = grafted.report
        self._add(
            name,
            variant,
            scores,
            predictions,
            grafted.curves,
            scored_on=self._scored_on(f"{len(splits.folds)} folds over all images"),
            replaced=replaced,
            n_features=grafted.n_features,
            params=report.total_after,
            trainable=report.trainable,
            removed=report.removed,
            head_params=report.head,
            inert=report.inert,
            reduction_whole=report.reduction_whole,
            reduction_block=report.reduction_block,
            **extra,
        )

    def _add(
        self,
        name: str,
        variant: str,
        scores: Sequence[Scores],
        predictions: tuple[np.ndarray, np.ndarray],
        curves: list[list[EpochRecord]],
        **facts: Any,
    ) -> None:
        key = f"{name}/{variant}"
        f1_mean, f1_std = _spread(s["f1"] for s in scores)
        accuracy_mean, accuracy_std = _spread(s["accuracy"] for s in scores)
        aucs = [s["auc"] for s in scores if s["auc"] is not None]
        row: dict[str, Any] = {
            "model": name,
            "variant": variant,
            "f1_mean": f1_mean,
            "f1_std": f1_std,
            "f1_best": max(s["f1"] for s in scores),
            "f1_folds": [s["f1"] for s in scores],
            "accuracy_mean": accuracy_mean,
            "accuracy_std": accuracy_std,
            "precision_mean": _spread(s["precision"] for s in scores)[0],
            "recall_mean": _spread(s["recall"] for s in scores)[0],
            "auc_mean": _spread(aucs)[0] if aucs else None,
            "confusion": np.sum([s["confusion"] for s in scores], axis=0).tolist(),
            "n_folds": len(scores),
        }
        self.rows.append({**_NO_GRAFT, **row, **facts})
        self.curves[key] = curves
        self.predictions[key] = predictions

    def _scored_on(self, paper: str) -> str:
        """Say which images a row is scored on; under `clean` all rows share the hold-out."""
        held = len(self.splits.holdout)
        return f"outer hold-out, {held} images" if held else paper

    def write(self, folder: Path, result: dict[str, Any]) -> None:
        """Write everything a report is made from; `result.json` last, as the sign of success."""
        write_json(folder / "curves.json", self.curves)
        arrays: dict[str, np.ndarray] = {}
        for key, (index, probabilities) in self.predictions.items():
            prefix = key.replace("/", "__")
            binary = probabilities.shape[1] == 2
            arrays[f"{prefix}.scores"] = probabilities[:, 1] if binary else probabilities
            arrays[f"{prefix}.labels"] = self.images.labels[index]
            arrays[f"{prefix}.index"] = index
        _write_arrays(folder / "predictions.npz", arrays)
        self._write_mistakes(folder)
        self._write_samples(folder)
        write_json(folder / "result.json", result)

    def _write_mistakes(self, folder: Path) -> None:
        """Keep the most confident mistakes of the best hybrid (of the best row without one)."""
        hybrids = [row for row in self.rows if row["replaced"]] or self.rows
        best = max(hybrids, key=lambda row: row["f1_mean"])
        index, probabilities = self.predictions[f"{best['model']}/{best['variant']}"]
        predicted = probabilities.argmax(1)
        labels = self.images.labels[index]
        confidence = np.where(predicted != labels, probabilities.max(1), -1.0)
        worst = np.argsort(-confidence, kind="stable")[:N_MISTAKES]
        worst = worst[confidence[worst] >= 0]
        _write_arrays(folder / "mistakes.npz", {"images": self.images.images[index[worst]]})
        names = self.images.class_names
        write_json(
            folder / "mistakes.json",
            [
                {
                    "name": self.images.names[index[i]],
                    "label": names[labels[i]],
                    "predicted": names[predicted[i]],
                    "score": float(probabilities[i, 1 if len(names) == 2 else predicted[i]]),
                    "model": best["model"],
                    "variant": best["variant"],
                }
                for i in worst
            ],
        )

    def _write_samples(self, folder: Path) -> None:
        """Keep a few images of every class, evenly spread over the set."""
        chosen: list[int] = []
        for label in range(len(self.images.class_names)):
            members = np.flatnonzero(self.images.labels == label)
            steps = np.linspace(0, len(members) - 1, min(N_SAMPLES, len(members)))
            chosen += members[steps.astype(int)].tolist()
        _write_arrays(folder / "samples.npz", {"images": self.images.images[chosen]})
        write_json(
            folder / "samples.json",
            [
                {
                    "name": self.images.names[i],
                    "label": self.images.class_names[self.images.labels[i]],
                }
                for i in chosen
            ],
        )


_NO_GRAFT: dict[str, Any] = {
    "model": "",
    "variant": "",
    "replaced": 0,
    "n_features": 0,
    "params": 0,
    "trainable": 0,
    "removed": 0,
    "head_params": 0,
    "inert": 0,
    "reduction_whole": None,
    "reduction_block": None,
    "published_f1": None,
    "published_params": None,
    "init_f1_mean": None,
    "init_f1_std": None,
    "n_inits": None,
    "final_f1": None,
    "fold_f1_mean": None,
    "fold_f1_std": None,
}


def data_summary(images: ImageSet) -> dict[str, Any]:
    """Return what a reader should know about the images."""
    counts = np.bincount(images.labels, minlength=len(images.class_names)).tolist()
    return {
        "n_images": len(images),
        "per_class": dict(zip(images.class_names, counts, strict=True)),
        "n_photographs": len(np.unique(images.groups)),
        "class_names": list(images.class_names),
        "findings": list(images.findings),
    }


def _spread(values: Iterable[float]) -> tuple[float, float]:
    """Return mean and sample standard deviation (0 for a single value)."""
    numbers = np.array(list(values), dtype=float)
    if not len(numbers):
        raise ValueError("no values to average")
    return float(numbers.mean()), float(numbers.std(ddof=1)) if len(numbers) > 1 else 0.0


def _write_arrays(path: Path, arrays: dict[str, np.ndarray]) -> None:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # pyright: ignore[reportArgumentType]
    atomic_write(path, buffer.getvalue())
