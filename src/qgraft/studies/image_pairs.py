"""Classical-to-quantum transfer on pictures: ants and bees, pairs of CIFAR-10 (arXiv 1912.08278).

A frozen network that knows ImageNet gives the features, once; a dressed circuit of four qubits and
classical heads learn from them. Which depths of the network are read is decided by
cross-validation on training images alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from itertools import combinations
from math import pi
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from qgraft.circuits.ansatz import dressed_circuit
from qgraft.config import ImagePairConfig
from qgraft.data.cifar import PAIRS, read_pair, through_jpeg
from qgraft.data.crops import load_views
from qgraft.data.imageset import ImageSet
from qgraft.errors import DataError
from qgraft.evaluation.audit import Finding, audit_parts
from qgraft.evaluation.audit.findings import worst_first
from qgraft.heads.registry import build_head
from qgraft.seeds import derive
from qgraft.studies.run import Run, keep_data
from qgraft.studies.transfer_cells import (
    Contestant,
    Outcome,
    result_row,
    seeds_unit,
    train_seeds,
)
from qgraft.training.checkpoint import read_json, write_json
from qgraft.training.loop import Recipe, Samples
from qgraft.trunks.features import cached_features
from qgraft.trunks.photographs import PhotographTrunk, photograph_trunk
from qgraft.trunks.registry import TRUNKS

N_QUBITS, INIT_SPREAD = 4, 0.01
CHOSEN_ON, FOLDS, PENALTY = 2000, 6, 0.003  # training images at most; folds; inverse of L2


@dataclass(frozen=True)
class Task:
    """A pair of classes with its published recipe and values.

    Attributes:
        name: names the task in results.
        training: images to learn from.
        tests: test sets by title, the published one first.
        depth: layers of the circuit.
        recipe: how heads are trained.
        published: accuracy by head.
        notes: what to know about the data.
    """

    name: str
    training: ImageSet
    tests: Mapping[str, ImageSet]
    depth: int
    recipe: Recipe
    published: Mapping[str, float]
    notes: tuple[str, ...] = ()


def ants_and_bees(folder: Path, *, side: int = 224) -> Task:
    """Read the Hymenoptera subset, `train/` and `val/` with a folder per class.

    Raises:
        DataError: the folder has no such parts, or images are unreadable.
    """
    loaded = load_views(folder, side)
    split = np.array(loaded.split or ())
    if set(split) != {"train", "val"}:
        raise DataError(f"{folder} must hold train/ and val/, each with a folder per class")
    # The rate is divided by ten before the 10th, 20th and 30th epoch: published code steps early.
    recipe = Recipe(30, 4e-4, 4, drops=(9, 19, 29))
    return Task(
        "ants-bees",
        loaded.images.subset(np.flatnonzero(split == "train")),
        {"validation": loaded.images.subset(np.flatnonzero(split == "val"))},
        6,
        recipe,
        {"dressed": 0.9673, "linear": 0.9542},
        (
            "The published value is the best epoch on the validation images with a complete "
            "ResNet18; ours is the last epoch, the best one is given beside it.",
            "Each picture is seen twice, its centre (as published) and squeezed as a whole, and "
            "the features are averaged.",
        ),
    )


def cifar_tasks(folder: Path, *, jpeg: bool = True) -> list[Task]:
    """Read all pairs of CIFAR-10, see `data.cifar`; each is tested on pixels of two kinds.

    Lossless images against the last training batch, which is held out, and, with `jpeg`, images
    that went through JPEG against the published test images, which did.
    """
    tasks = []
    for pair in PAIRS:
        data = read_pair(folder, pair)
        is_dogs = pair == "dogs-cats"
        lossless = Task(
            pair,
            data.training,
            {"held out": data.held_out},
            5 if is_dogs else 4,
            Recipe(3, 0.001, 8) if is_dogs else Recipe(3, 0.0007, 8, drops=(2,)),
            {"dressed": 0.8270 if is_dogs else 0.9605},
            (
                f"{pair}: heads learn from the {len(data.training):,} images of the first four "
                f"training batches (10,000 in the source) and are tested on {len(data.held_out):,} "
                "of the last one.",
            ),
        )
        tasks.append(lossless)
        if jpeg:
            note = (
                f"{pair}-jpeg: the published {len(data.test):,} test images, here only as they "
                "came back from JPEG; training images went through JPEG of quality 75 to match."
            )
            squeezed = replace(lossless, name=f"{pair}-jpeg", training=through_jpeg(data.training))
            tasks.append(replace(squeezed, tests={"test": data.test}, notes=(note,)))
    return tasks


def smaller(task: Task, n_training: int, n_test: int) -> Task:
    """Return the task with evenly spaced images of every part, for a quick look."""

    def some(images: ImageSet, n: int) -> ImageSet:
        return images.subset(np.unique(np.linspace(0, len(images) - 1, n).astype(np.int64)))

    tests = {name: some(images, n_test) for name, images in task.tests.items()}
    return replace(task, training=some(task.training, n_training), tests=tests)


def run_image_pairs(run: Run, tasks: list[Task], config: ImagePairConfig) -> dict[str, Any]:
    """Run the study in its directory and return what `result.json` holds."""
    run.work = float(len(tasks) * (len(config.heads) + 4))
    keep_data(run.folder, _described(tasks))
    trunk = photograph_trunk(config.trunk, config.weights, side=config.side, mirror=config.mirror)
    rows: list[dict[str, Any]] = []
    notes = [f"Features of {TRUNKS[config.trunk].title} at {config.side} pixels, frozen."]
    for task in tasks:
        with run.timed("features"):
            share = 4 / (1 + len(task.tests))
            samples, training, tests = features_of(task, trunk, partial(run.advance, share))
        depths = _chosen_depths(run, task, trunk, samples, training, config)
        samples = selected(samples, trunk.columns(depths), training, config.standardise)
        n_features = samples.inputs.shape[1]
        notes += [f"{task.name}: read {', '.join(depths)}: {n_features:,} features, the fewest "
                  "within one standard error of the best choice in cross-validation on training "
                  "images.", *task.notes]  # fmt: skip
        watch = next(iter(tests)) if config.watch else None
        contestants = contestants_for(task, n_features, config)
        place = samples, training, tests
        how: dict[str, Any] = {"seed": config.seed, "n_seeds": config.seeds, "watch": watch}
        run.spread(run, (seeds_unit(task.name, c, *place, **how) for c in contestants))
        for contestant in contestants:
            with run.timed("heads"):
                outcome = train_seeds(run, task.name, contestant, *place, **how)
            rows += _rows(task, contestant, outcome)
            run.advance(1, f"{task.name}, {contestant.title}")
    audit = [finding for task in tasks for finding in _audited(task)]
    result = {"study": config.study, "rows": rows, "notes": notes, "audit": worst_first(audit),
              "config": config.model_dump(mode="json")}  # fmt: skip
    write_json(run.folder / "result.json", result)
    run.finish()
    return result


def _audited(task: Task) -> list[Finding]:
    return audit_parts({"training": task.training, **task.tests}, task.name)


def contestants_for(task: Task, n_features: int, config: ImagePairConfig) -> list[Contestant]:
    """Return the heads that meet on a task."""
    circuit: dict[str, Any] = {
        "circuit": dressed_circuit(N_QUBITS, task.depth),
        "scale": pi / 2,
        "init_spread": INIT_SPREAD,
    }
    heads: dict[str, tuple[str, Callable[..., nn.Module]]] = {
        "dressed": (
            f"dressed, {N_QUBITS} qubits, depth {task.depth}",
            partial(build_head, "dressed", **circuit),
        ),
        "linear": ("linear", partial(build_head, "dense")),
        "dense-4": ("4 hidden, ReLU", partial(build_head, "dense", widths=(4,))),
        "dense-512": ("512 hidden, ReLU", partial(build_head, "dense", widths=(512,))),
        "no-circuit": ("no circuit", partial(build_head, "no-circuit", **circuit)),
        "matched-sine": ("matched, sine", partial(build_head, "matched-sine", **circuit)),
    }
    epochs = config.head_epochs or task.recipe.epochs
    recipe = task.recipe._replace(epochs=epochs)
    return [
        Contestant(key, title, partial(build, n_features, 2), recipe)
        for key, (title, build) in heads.items()
        if key in config.heads
    ]


def features_of(
    task: Task, trunk: PhotographTrunk, on_part: Callable[[str], None] = lambda note: None
) -> tuple[Samples, np.ndarray, dict[str, np.ndarray]]:
    """Return features and labels of all parts of a task, and which rows are whose."""
    parts = {"training": task.training, **task.tests}
    features, labels, places, start = [], [], {}, 0
    for name, images in parts.items():
        pixels = torch.from_numpy(images.images).permute(0, 3, 1, 2).contiguous()
        network = trunk.for_images(pixels)
        features.append(cached_features(network, pixels, images.digest()))
        labels.append(torch.from_numpy(images.labels))
        places[name] = np.arange(start, start + len(images))
        start += len(images)
        on_part(f"{task.name}, features of {len(images):,} images")
    samples = Samples(torch.cat(features), torch.cat(labels))
    training = places.pop("training")
    return samples, training, places


def selected(
    samples: Samples, columns: torch.Tensor, training: np.ndarray, standardise: bool
) -> Samples:
    """Return the features in `columns`, if asked with mean 0 and spread 1 on training samples."""
    inputs = samples.inputs[:, columns]
    if standardise:
        known = inputs[training]
        inputs = (inputs - known.mean(0)) / known.std(0).clamp_min(1e-6)
    return Samples(inputs.contiguous(), samples.labels)


def _chosen_depths(
    run: Run,
    task: Task,
    trunk: PhotographTrunk,
    samples: Samples,
    training: np.ndarray,
    config: ImagePairConfig,
) -> tuple[str, ...]:
    """Return the depths to read, chosen on training images."""
    path = _depths_file(run.folder, task)
    if not path.exists():
        found = depth_scores(trunk, samples, training, seed=config.seed)
        write_json(path, {" + ".join(depths): score for depths, score in found.items()})
    return stored_depths(run.folder, task, trunk, len(training))


def _depths_file(folder: Path, task: Task) -> Path:
    return folder / "heads" / f"depths-{task.name}.json"


def stored_depths(
    folder: Path, task: Task, trunk: PhotographTrunk, n_training: int
) -> tuple[str, ...]:
    """Return the depths that a run has chosen to read."""
    stored: dict[str, float] = read_json(_depths_file(folder, task))
    scores = {tuple(name.split(" + ")): score for name, score in stored.items()}
    return simplest_good(scores, trunk, min(CHOSEN_ON, n_training))


def simplest_good(
    scores: dict[tuple[str, ...], float], trunk: PhotographTrunk, n: int
) -> tuple[str, ...]:
    """Return the choice of fewest features within one standard error of the best score.

    Args:
        scores: cross-validated accuracies.
        trunk: tells how many features a choice has.
        n: samples the accuracies were measured on.
    """
    best = max(scores.values())
    floor = best - (best * (1 - best) / n) ** 0.5
    good = [depths for depths, score in scores.items() if score >= floor]
    return min(good, key=lambda depths: (len(trunk.columns(depths)), -scores[depths]))


def depth_scores(
    trunk: PhotographTrunk, samples: Samples, training: np.ndarray, *, seed: int
) -> dict[tuple[str, ...], float]:
    """Return the cross-validated accuracy of every choice of one or two depths."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold, cross_val_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    state = derive(seed, "depths") % 2**32
    rng = np.random.default_rng(state)
    rows = rng.permutation(training)[:CHOSEN_ON]
    labels = samples.labels[rows].numpy()
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=state)
    model = make_pipeline(StandardScaler(), LogisticRegression(C=PENALTY, max_iter=1000))
    names = list(trunk.widths)
    choices = [*combinations(names, 1), *combinations(names, 2)]
    return {
        depths: float(cross_val_score(
            model, samples.inputs[rows][:, trunk.columns(depths)].numpy(), labels, cv=folds
        ).mean())
        for depths in choices
    }  # fmt: skip


def _rows(task: Task, contestant: Contestant, outcome: Outcome) -> list[dict[str, Any]]:
    rows = []
    for number, test in enumerate(task.tests):
        title = task.name if number == 0 else f"{task.name}, {test}"
        row = result_row(
            title, contestant.title, outcome.n_params, outcome.accuracies(test),
            task.published.get(contestant.key) if number == 0 else None,
        )  # fmt: skip
        best = outcome.best if number == 0 else None
        row["best_epoch_mean"] = None if best is None else float(best.mean())
        rows.append(row)
    return rows


def _described(tasks: list[Task]) -> dict[str, Any]:
    sets = {t.name: {"training": t.training, **t.tests} for t in tasks}
    return {
        "digest": {name: {k: s.digest() for k, s in parts.items()} for name, parts in sets.items()},
        "splits": {name: {k: len(s) for k, s in parts.items()} for name, parts in sets.items()},
    }
