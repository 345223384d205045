"""Trained heads of finished runs, with the features they were trained and are scored on.

A surface run gives a head of one of its hybrids and its outer hold-out. Runs of ants and bees, of
CIFAR-10 and of quantum convolutional networks keep the heads of all seeds in one file; one of them
is taken, by its number and never by its score.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from qgraft.config import ImagePairConfig, QcnnConfig, SurfaceConfig, resolve
from qgraft.data.digits import embedded_transfer_data, read_transfer_data
from qgraft.data.surface import surface_images, surface_splits
from qgraft.errors import RunError
from qgraft.heads.dressed import DressedHead
from qgraft.heads.measured import with_circuit
from qgraft.heads.qcnn import QcnnHead
from qgraft.seeds import numpy_rng
from qgraft.studies.classical import image_tensor
from qgraft.studies.image_pairs import (
    Task,
    ants_and_bees,
    cifar_tasks,
    contestants_for,
    features_of,
    selected,
    stored_depths,
)
from qgraft.studies.predict import load_fitted
from qgraft.studies.qcnn_cells import PairTask
from qgraft.studies.qcnn_tasks import pair_tasks, reduced_tasks
from qgraft.studies.surface import read_photographs
from qgraft.training.checkpoint import load_tensors, read_json
from qgraft.training.kept import load_trained, load_weights
from qgraft.training.loop import Samples
from qgraft.trunks.fashion_cnn import fashion_cnn, trunk_of
from qgraft.trunks.features import cached_features
from qgraft.trunks.photographs import photograph_trunk

AT_MOST = 500  # samples of a part; noise costs hundreds of times an ideal simulation
STATE = "state."


@dataclass(frozen=True)
class HeadData:
    """A trained head with the features it was trained and is scored on."""

    head: DressedHead | QcnnHead
    variant: str
    development: Samples
    holdout: Samples
    task: str = ""


def load_head(folder: Path, variant: str | None = None, data: Path | None = None) -> HeadData:
    """Return a head of a finished run with its features.

    Args:
        folder: a run of `reproduce surface` under protocol `clean`, of `ants-bees`, `cifar` or
            `qcnn`.
        variant: of a surface run such as "CM-2/QTL-M-2", by default the one with the best F1 on
            its folds; of CIFAR-10 a pair such as "dogs-cats"; of `qcnn` a network and a pair such
            as "su4-generalised-0-1". "#3" behind the last two, or alone, takes the head of seed 3.
        data: the images, where they have moved.

    Raises:
        RunError: the run is of another kind, not finished, or has no such head.
    """
    settings = dict(read_json(folder / "config.json"))
    settings.pop("command", None)
    settings |= {"data": str(data)} if data else {}
    study = settings.get("study")
    if study not in LOADERS or settings.get("protocol", "clean") != "clean":
        raise RunError(
            f"{folder} is no run of 'reproduce surface --protocol clean', 'ants-bees', 'cifar' or "
            "'qcnn', whose images and heads this needs"
        )
    return LOADERS[study](folder, settings, variant)


def _surface_head(folder: Path, settings: dict[str, Any], variant: str | None) -> HeadData:
    config = resolve(SurfaceConfig, settings)
    fitted = load_fitted(folder, variant)
    photographs = read_photographs(config)
    images = surface_images(
        photographs, protocol=config.protocol, per_class=config.per_class, seed=config.seed
    )
    splits = surface_splits(
        photographs, images, protocol=config.protocol, n_folds=config.folds, seed=config.seed
    )
    features = cached_features(fitted.model.trunk, image_tensor(images), images.digest())
    samples = Samples(features, torch.from_numpy(images.labels))
    return HeadData(
        with_circuit(fitted.model.head),
        variant or "best on its folds",
        samples.subset(splits.development),
        samples.subset(splits.holdout),
        "NEU-DET",
    )


def _image_pair_head(folder: Path, settings: dict[str, Any], variant: str | None) -> HeadData:
    config = resolve(ImagePairConfig, settings)
    name, number = _numbered(variant)
    if config.study == "ants-bees":
        tasks = [ants_and_bees(Path(config.data), side=config.side)]
    else:
        tasks = cifar_tasks(Path(config.data), jpeg=False)
    task = _named(tasks, name, folder)
    trunk = photograph_trunk(
        config.trunk, config.weights, side=config.side, mirror=config.mirror
    )  # fmt: skip
    samples, training, tests = features_of(task, trunk)
    depths = stored_depths(folder, task, trunk, len(training))
    samples = selected(samples, trunk.columns(depths), training, config.standardise)
    dressed = next(
        one for one in contestants_for(task, samples.inputs.shape[1], config)
        if one.key == "dressed"
    )  # fmt: skip
    head = _seeded(dressed.build(), folder / "heads" / f"dressed-{task.name}.safetensors", number)
    test = next(iter(tests.values()))
    return HeadData(
        head, f"dressed#{number}", *_parts(samples.subset(training), samples.subset(test)),
        task.name,
    )  # fmt: skip


def _qcnn_head(folder: Path, settings: dict[str, Any], variant: str | None) -> HeadData:
    config = resolve(QcnnConfig, settings)
    first = "-".join(map(str, config.pairs[0]))
    name, number = _numbered(variant)
    name = name or f"{config.ansatz[-1]}-{config.pooling[0]}-{first}"
    ansatz, _, rest = name.partition("-")
    pooling, _, pair_name = rest.partition("-")
    path = folder / "heads" / f"{name}.safetensors"
    pairs = [pair for pair in config.pairs if "-".join(map(str, pair)) == pair_name]
    if not pairs or not path.exists():
        raise RunError(f"{folder} has no head {name!r}; it has {', '.join(_heads_in(folder))}")
    task = _qcnn_task(folder, config, pairs[0])
    head = QcnnHead(
        task.training.inputs.shape[1], 2, ansatz=ansatz, pooling=pooling,
        embedding=config.embedding,
    )  # fmt: skip
    return HeadData(
        _seeded(head, path, number), f"{name}#{number}", *_parts(task.training, task.test),
        f"MNIST {pair_name}",
    )  # fmt: skip


def _qcnn_task(folder: Path, config: QcnnConfig, pair: tuple[int, int]) -> PairTask:
    if config.data == "embedded":
        data = embedded_transfer_data()
    else:
        data = read_transfer_data(Path(config.data), config.target)
    if config.inputs != "transfer":
        width = QcnnHead(2, 2, embedding=config.embedding).entry.width
        return reduced_tasks(data, (pair,), config.inputs, width, seed=config.seed)[0]
    trunks = Path(config.trunks) if config.trunks else folder / "trunks"
    found = sorted(trunks.glob("source-*.safetensors"), key=lambda path: "-best" not in path.stem)
    if not found:
        raise RunError(f"{trunks} holds no trunk of a run of 'reproduce qcnn'")
    network = fashion_cnn(int(found[0].stem.split("-")[1]), data.n_source_classes)
    load_trained(found[0], network)
    return pair_tasks(data, (pair,), trunk_of(network))[0]


LOADERS: dict[Any, Callable[[Path, dict[str, Any], str | None], HeadData]] = {
    "surface": _surface_head,
    "ants-bees": _image_pair_head,
    "cifar": _image_pair_head,
    "qcnn": _qcnn_head,
}


def _numbered(variant: str | None) -> tuple[str, int]:
    """Split "name#3" into name and number of the seed, 0 where there is none.

    Raises:
        RunError: what follows the # is no number.
    """
    name, mark, number = (variant or "").partition("#")
    if mark and not (number.isascii() and number.isdecimal()):
        raise RunError(f"{variant!r} is no head; write NAME#NUMBER with the number of a seed")
    return name, int(number or 0)


def _named(tasks: list[Task], name: str, folder: Path) -> Task:
    names = [task.name for task in tasks]
    if name in ("", "dressed"):
        return tasks[0]
    if name not in names:
        raise RunError(f"{folder} has no task {name!r}; it has {', '.join(names)}")
    return tasks[names.index(name)]


def _heads_in(folder: Path) -> list[str]:
    """Return the names of quantum convolutional networks in a run."""
    found = sorted(path.stem for path in (folder / "heads").glob("*-*-*.safetensors"))
    return [name for name in found if not name.startswith(("tuned-", "grouped-", "2D-"))]


def _seeded(head: Any, path: Path, number: int) -> DressedHead | QcnnHead:
    """Return a head with the weights of one seed.

    Raises:
        RunError: there is no such file or seed.
    """
    if not path.exists():
        raise RunError(f"{path} is missing; finish the run first")
    tensors: dict[str, Tensor] = {
        name.removeprefix(STATE): tensor
        for name, tensor in load_tensors(path).items()
        if name.startswith(STATE)
    }
    n_seeds = min((len(tensor) for tensor in tensors.values()), default=0)
    if number >= n_seeds:
        raise RunError(f"{path} holds {n_seeds} heads, #0 to #{n_seeds - 1}; there is no #{number}")
    load_weights(head, {name: tensor[number] for name, tensor in tensors.items()}, path)
    return with_circuit(head.eval())


def _parts(training: Samples, test: Samples) -> tuple[Samples, Samples]:
    """Return at most `AT_MOST` samples of each part, drawn without looking at them."""
    return _some(training, "training"), _some(test, "test")


def _some(samples: Samples, name: str) -> Samples:
    n = len(samples.labels)
    if n <= AT_MOST:
        return samples
    return samples.subset(np.sort(numpy_rng(0, f"{name} under noise").permutation(n)[:AT_MOST]))
