"""A new kind of defect shows up: teach the head alone from a few examples, and count the cost.

arXiv 2409.00228 motivates small heads with lines that must adapt. Here one defect type is left out
of everything, network and heads; then 5, 10, 20, 50 labelled photographs of it arrive, and only
the head is trained again, on cached features of the old images and of the new ones. Scored on
photographs nobody has seen: how much of the new type is found, and what the old types lose.

An example is a photograph: its crop around a defect and a crop of its good steel. With defect
crops alone a head could learn that the new photographs' steel is anomalous; the share of their
good crops called anomalous is reported for the same reason.
"""

from __future__ import annotations

import copy
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from qgraft.config import NewDefectConfig
from qgraft.data.imageset import ANOMALOUS, NORMAL, ImageSet, Photographs
from qgraft.data.splits import Splits
from qgraft.data.surface import CUT_MARK, most_per_class, surface_images, surface_splits
from qgraft.errors import ConfigError, DataError
from qgraft.evaluation.audit import audit_images
from qgraft.evaluation.metrics import score
from qgraft.grafting import graft
from qgraft.heads.registry import build_head
from qgraft.seeds import derive, numpy_rng, torch_stream
from qgraft.studies.classical import IMAGE_COST, image_tensor, new_network
from qgraft.studies.hybrid import head_options
from qgraft.studies.new_defect_rows import Measure, comparison_rows, result_rows
from qgraft.studies.results import data_summary
from qgraft.studies.run import Run, Unit, keep_data
from qgraft.training.checkpoint import read_json, write_json
from qgraft.training.head_trainer import HeadTask, can_train, train_heads
from qgraft.training.kept import load_trained
from qgraft.training.loop import Recipe, Samples, keep_freed_memory, predict_logits, train
from qgraft.trunks.features import cached_features
from qgraft.trunks.surface_cnn import surface_cnn

HEAD_COST = 0.01  # of one head-training sample, in training images of CM-2
NOTES = (
    "The left-out type is absent from the training of the network and of the heads without "
    "examples; photographs whose boxes name several types are not used.",
    "All scores are on whole photographs that no training has seen; the same ones for every head, "
    "number of examples and seed.",
    "Seeds draw the examples, the head's first weights and the order of training. There is one "
    "network for each left-out type, so intervals say nothing about other networks.",
    "New examples are repeated until they weigh as much as an average old type; every head is "
    "trained anew, with the same settings, on the same samples.",
    "Seconds are those of training the head on cached features, one head at a time.",
)
GIVEN_NOTE = (
    "The network was given by --weights and is used for every left-out type. Whether it has seen "
    "that type, or photographs of the hold-out, is not known here."
)


class Scene(NamedTuple):
    """The images, who may see which, and which defect type each one's photograph is of."""

    images: ImageSet
    splits: Splits
    types: np.ndarray


class Roles(NamedTuple):
    """What each image is for while one type is left out, as indices.

    Attributes:
        train: the network learns from these.
        select: watched while the network learns.
        replay: old images the heads learn from.
        pool: photographs (groups) of the new type that examples are drawn from.
        held_old: old images scored at the end.
        held_new: images of the new type scored at the end.
    """

    train: np.ndarray
    select: np.ndarray
    replay: np.ndarray
    pool: np.ndarray
    held_old: np.ndarray
    held_new: np.ndarray


def run_new_defect(run: Run, photographs: Photographs, config: NewDefectConfig) -> dict[str, Any]:
    """Train what is not in `run.folder` yet and return the content of `result.json`."""
    keep_freed_memory()
    scene = make_scene(photographs, config)
    left_out = config.leave_out or tuple(sorted(set(scene.types.tolist())))
    cast = {name: assign_roles(scene, name, max(config.shots)) for name in left_out}
    summary = data_summary(scene.images)
    splits = scene.splits.to_json()
    keep_data(run.folder, {"summary": summary, "digest": scene.images.digest(), "splits": splits})
    for head in config.heads:
        new_head(head, surface_cnn(config.trunk), config, seed=0)  # a wrong one costs no training
    run.work = sum(
        _trunk_work(roles, config) + _head_work(roles, config) for roles in cast.values()
    )
    measures, parameters = {}, {}
    if not config.weights:
        run.spread(
            run,
            (
                Unit(_train_network, (scene, config), (roles, name), (str(_network_file(name)),))
                for name, roles in cast.items()
            ),
        )
    for name, roles in cast.items():
        network = _network(run, scene, roles, name, config)
        samples = _features(run, network, scene, name, config)
        for head in config.heads:
            measures[name, head] = [
                _head_unit(run, network, samples, scene, roles, (name, head, seed), config)
                for seed in range(config.seeds)
            ]
            trained = new_head(head, network, config, seed=0)
            parameters[head] = sum(p.numel() for p in trained.parameters())
    result = {
        "study": config.study,
        "protocol": "clean",
        "rows": result_rows(measures, parameters),
        "comparisons": comparison_rows(measures, config.heads),
        "notes": [*([GIVEN_NOTE] if config.weights else []), *NOTES],
        "config": config.model_dump(mode="json"),
        "data": summary,
        "audit": audit_images(scene.images, scene.splits),
    }
    write_json(run.folder / "result.json", result)
    run.finish()
    return result


def make_scene(photographs: Photographs, config: NewDefectConfig) -> Scene:
    """Make one good and one defect crop of each photograph of the wanted types, and split them.

    Raises:
        DataError: an unknown type, or one without a photograph whose boxes are all of it.
        ConfigError: fewer than two types, or a type to leave out that is not among them.
    """
    types = _wanted_types(photographs, config)
    usable = [
        i
        for i, (defect, boxes) in enumerate(
            zip(photographs.defects, photographs.boxes, strict=True)
        )
        if defect in types and {box.label for box in boxes} == {defect}
    ]
    kept = Photographs(
        images=tuple(photographs.images[i] for i in usable),
        defects=tuple(photographs.defects[i] for i in usable),
        boxes=tuple(photographs.boxes[i] for i in usable),
        names=tuple(photographs.names[i] for i in usable),
        findings=photographs.findings,
    )
    for name in types:
        if name not in kept.defects:
            raise DataError(
                f"type {name!r} has no photograph whose boxes all carry that name; "
                "choose others with --types"
            )
    images = surface_images(
        kept, protocol="clean", per_class=most_per_class(kept), seed=config.seed
    )
    splits = surface_splits(kept, images, protocol="clean", n_folds=config.folds, seed=config.seed)
    defect_of = dict(zip(kept.names, kept.defects, strict=True))
    names = [defect_of[name.rpartition(CUT_MARK)[0]] for name in images.names]
    return Scene(images, splits, np.array(names))


def _wanted_types(photographs: Photographs, config: NewDefectConfig) -> tuple[str, ...]:
    known = sorted(set(photographs.defects))
    types = config.types or tuple(known)
    for name in types:
        if name not in known:
            raise DataError(f"no photograph of type {name!r}; types there: {', '.join(known)}")
    if len(types) < 2:
        raise ConfigError(f"leaving one type out needs at least 2 types, got {', '.join(types)}")
    for name in config.leave_out or ():
        if name not in types:
            raise ConfigError(
                f"cannot leave out {name!r}, which does not take part; types: {', '.join(types)}"
            )
    return types


def assign_roles(scene: Scene, left_out: str, most_shots: int) -> Roles:
    """Return who sees what while `left_out` is unknown.

    Raises:
        DataError: the development part holds fewer photographs of the type than `most_shots`.
    """
    groups = scene.images.groups
    is_new = np.isin(groups, groups[scene.types == left_out])  # copies under other names included

    def old(index: np.ndarray) -> np.ndarray:
        return index[~is_new[index]]

    splits = scene.splits
    development = splits.development
    pool = np.unique(groups[development[is_new[development]]])
    if len(pool) < most_shots:
        raise DataError(
            f"{most_shots} examples of {left_out!r} were asked for, but only {len(pool)} "
            "photographs of it are outside the hold-out; lower --shots"
        )
    return Roles(
        train=old(splits.train),
        select=old(splits.select),
        replay=old(development),
        pool=pool,
        held_old=old(splits.holdout),
        held_new=splits.holdout[is_new[splits.holdout]],
    )


def draw_examples(scene: Scene, roles: Roles, shots: int, seed: int) -> np.ndarray:
    """Return the images of `shots` new photographs; fewer shots of a seed are a subset of more."""
    order = numpy_rng(seed, "new examples").permutation(roles.pool)
    development = scene.splits.development
    return development[np.isin(scene.images.groups[development], order[:shots])]


def training_rows(scene: Scene, roles: Roles, shots: int, seed: int) -> np.ndarray:
    """Return the old images and the new ones, these repeated to the weight of one old type."""
    if not shots:
        return roles.replay
    examples = draw_examples(scene, roles, shots, seed)
    n_old_types = len(np.unique(scene.types[roles.replay]))
    repeats = max(1, round(len(roles.replay) / n_old_types / len(examples)))
    return np.concatenate([roles.replay, np.tile(examples, repeats)])


def _trunk_work(roles: Roles, config: NewDefectConfig) -> float:
    return 0.0 if config.weights else IMAGE_COST[config.trunk] * len(roles.train) * config.epochs


def _head_work(roles: Roles, config: NewDefectConfig) -> float:
    n_heads = config.seeds * (len(config.shots) + 1) * len(config.heads)
    return HEAD_COST * len(roles.replay) * config.head_epochs * n_heads


def _network(
    run: Run, scene: Scene, roles: Roles, left_out: str, config: NewDefectConfig
) -> nn.Sequential:
    """Train the network on the old types, or load the one that was given."""
    seen = replace(scene.splits, train=roles.train)
    seed = derive(config.seed, f"new defect {left_out}")
    model = new_network(config.trunk, scene.images, seen, seed=seed)
    if config.weights:
        load_trained(Path(config.weights), model)
        return model.eval()
    pixels = image_tensor(scene.images)
    samples = Samples(pixels, torch.from_numpy(scene.images.labels))
    with run.timed(f"{left_out}/network"):
        train(
            model,
            samples.subset(roles.train),
            samples.subset(roles.select),
            Recipe(config.epochs, config.learning_rate, config.batch_size, config.mixed_precision),
            seed=seed,
            checkpoint=run.folder / _network_file(left_out),
            on_epoch=run.each_epoch(
                IMAGE_COST[config.trunk] * len(roles.train), f"network without {left_out}"
            ),
        )
    return model.eval()


def _train_network(
    run: Run, scene: Scene, config: NewDefectConfig, roles: Roles, left_out: str
) -> None:
    """Train a network alone; heads are not spread, for their seconds are measured."""
    keep_freed_memory()
    _network(run, scene, roles, left_out, config)


def _network_file(left_out: str) -> Path:
    return Path("trunks") / f"{left_out}.safetensors"


def _features(
    run: Run, network: nn.Sequential, scene: Scene, left_out: str, config: NewDefectConfig
) -> Samples:
    with run.timed(f"{left_out}/features"):
        trunk = graft(network, config.replace_last, head=nn.Linear).trunk
        features = cached_features(trunk, image_tensor(scene.images), scene.images.digest())
    return Samples(features, torch.from_numpy(scene.images.labels))


def new_head(name: str, network: nn.Sequential, config: NewDefectConfig, *, seed: int) -> nn.Module:
    """Build a head with fresh weights.

    `"dense"` is the stack of dense layers that the network had behind the cut, `"linear"` a single
    one; every other name is one of the registry.

    Raises:
        ConfigError: no such head.
    """

    def build(n_features: int, n_classes: int) -> nn.Module:
        if name == "dense":
            return _dense_layers(config.trunk, config.replace_last)
        if name == "linear":
            return build_head("dense", n_features, n_classes)
        return build_head(name, n_features, n_classes, **head_options(name, config))

    with torch_stream(seed, f"new head {name}"):
        return graft(network, config.replace_last, head=build).head


def _dense_layers(trunk: str, replace_last: int | str) -> nn.Sequential:
    """Return the last dense layers of a network, with fresh weights."""
    layers = list(surface_cnn(trunk))
    dense = [at for at, layer in enumerate(layers) if isinstance(layer, nn.Linear)]
    first = dense[0] if replace_last == "all" else dense[-int(replace_last)]
    return nn.Sequential(*layers[first:])


def _head_unit(
    run: Run,
    network: nn.Sequential,
    samples: Samples,
    scene: Scene,
    roles: Roles,
    unit: tuple[str, str, int],
    config: NewDefectConfig,
) -> list[Measure]:
    """Measure one head of one seed with every number of examples, or read what was measured."""
    left_out, head, seed = unit
    file = run.folder / "heads" / left_out / f"{head}-{seed}.json"
    levels = (0, *config.shots)
    work = HEAD_COST * len(roles.replay) * config.head_epochs
    if file.exists():
        run.advance(work * len(levels), f"{left_out}, {head} heads of seed {seed}")
        return read_json(file)
    draw = derive(config.seed, f"new defect {left_out}", seed)
    measures: list[Measure] = []
    for shots in levels:
        rows = training_rows(scene, roles, shots, draw)
        module = new_head(head, network, config, seed=draw)
        seconds = train_head(module, samples, rows, config, seed=draw)
        measures.append(measure(module, samples, roles, shots, seconds))
        run.advance(work, f"{left_out}, {head} head, {shots} examples, seed {seed}")
    write_json(file, measures)
    return measures


def train_head(
    head: nn.Module, samples: Samples, rows: np.ndarray, config: NewDefectConfig, *, seed: int
) -> float:
    """Train a head in place on the samples at `rows` and return the seconds it took."""
    recipe = Recipe(config.head_epochs, config.head_learning_rate, config.batch_size)
    task = HeadTask(head, torch.from_numpy(rows), None, seed)
    if can_train(head, samples, recipe):
        warm = task._replace(head=copy.deepcopy(head), training=task.training[:2])
        train_heads([warm], samples, recipe._replace(epochs=1), threads=1)  # kernels are compiled
        start = time.perf_counter()
        train_heads([task], samples, recipe, threads=1)
    else:
        start = time.perf_counter()
        train(head, samples.subset(rows), None, recipe, seed=seed)
    return time.perf_counter() - start


def measure(head: nn.Module, samples: Samples, roles: Roles, shots: int, seconds: float) -> Measure:
    """Score a head on the hold-out, the new type and the old ones apart."""
    old, new = (
        (
            predict_logits(head, samples.inputs[part]).softmax(-1).numpy(),
            samples.labels[part].numpy(),
        )
        for part in (roles.held_old, roles.held_new)
    )
    called, truth = new[0].argmax(1) == ANOMALOUS, new[1]
    scores = score(*old)
    return {
        "shots": shots,
        "recall_new": float(called[truth == ANOMALOUS].mean()),
        "false_alarms_new": float(called[truth == NORMAL].mean()),
        "f1_old": scores["f1"],
        "recall_old": scores["recall"],
        "seconds": seconds,
    }
