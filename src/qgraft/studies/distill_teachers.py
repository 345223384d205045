"""The teachers of a distillation study: trained once, heard once.

`lenet` and `alexnet` as published, `ensemble` (mean of their logits) and `ensemble-probabilities`;
`cm1` to `cm3` on photographs; any student as `NAME:QUBITS`, so that circuits teach circuits or
classical networks; a `.npz` or `.safetensors` file of logits; and `uniform`, which knows nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn

from qgraft.config import DistillConfig
from qgraft.errors import ConfigError
from qgraft.seeds import torch_stream
from qgraft.studies.distill_students import STUDENTS, build_student, student
from qgraft.studies.distill_tasks import DistillTask, samples_digest
from qgraft.studies.run import Run, Unit
from qgraft.training.distillation import Ensemble, Taught, teach, uniform_teacher
from qgraft.training.kept import load_trained
from qgraft.training.logits_file import read_logits
from qgraft.training.loop import Recipe, Samples, keep_freed_memory, predict_logits, train
from qgraft.trunks.features import cached_features
from qgraft.trunks.lenet import DIGIT_NETWORKS, digit_network
from qgraft.trunks.registry import TRUNKS, build_trunk

RATE, BATCH = 1e-3, 128  # published
ENSEMBLES = {"ensemble": "logits", "ensemble-probabilities": "probabilities"}
UNIFORM = "uniform"
COST = {  # of a training image, in images of LeNet
    "alexnet": 200.0,
    **{name: 60.0 * trunk.image_cost for name, trunk in TRUNKS.items()},
}
FILES = (".npz", ".safetensors")


class Teacher(NamedTuple):
    """A teacher that has spoken.

    Attributes:
        name: how it was asked for; a file's name without its folder.
        taught: what it says about the training samples.
        accuracy: on the test samples, None where it cannot be asked.
        best_accuracy: of its best epoch on the test samples, as published; never used.
        n_params: its parameters, None where unknown.
    """

    name: str
    taught: Taught
    accuracy: float | None = None
    best_accuracy: float | None = None
    n_params: int | None = None


def check_teacher(name: str) -> None:
    """Refuse a name that no teacher has.

    Raises:
        ConfigError: there is no such teacher.
    """
    known = {*DIGIT_NETWORKS, *ENSEMBLES, UNIFORM, *TRUNKS}
    base, _, qubits = name.partition(":")
    if name in known or Path(name).suffix in FILES:
        return
    if base in STUDENTS and qubits.isdecimal() and 1 <= int(qubits) <= 12:
        return
    raise ConfigError(
        f"unknown teacher {name!r}; use {', '.join(sorted(known))}, a student as NAME:QUBITS such "
        "as v2-fc-amplitude:8, or a .npz or .safetensors file of logits"
    )


def hear(run: Run, name: str, task: DistillTask, config: DistillConfig) -> Teacher:
    """Return what a teacher says about a task, training it first where that is needed.

    Raises:
        ConfigError: there is no such teacher.
        DataError: its file of logits cannot be used.
        ModelError: it cannot be built for these images.
    """
    check_teacher(name)
    if name == UNIFORM:
        return Teacher(name, uniform_teacher(task.training, task.n_classes))
    if Path(name).suffix in FILES:
        logits = read_logits(Path(name), len(task.training.labels), task.n_classes)
        return Teacher(Path(name).stem, Taught(logits))
    network, best = trained_teacher(run, name, task, config)
    digest = samples_digest(Samples(task.shown, task.training.labels))
    if config.attention:
        taught = teach(network, task.shown)
    else:
        taught = Taught(cached_features(network, task.shown, digest))
    said = predict_logits(network, task.shown_test)[:, : task.n_classes].argmax(-1)
    accuracy = float((said == task.test.labels).float().mean())
    n_params = sum(p.numel() for p in network.parameters())
    logits = taught.logits[:, : task.n_classes].contiguous()
    return Teacher(name, taught._replace(logits=logits), accuracy, best, n_params)


def trained_teacher(
    run: Run, name: str, task: DistillTask, config: DistillConfig
) -> tuple[nn.Module, float | None]:
    """Return a trained network and the best accuracy of its epochs on the test samples.

    None for a network of an earlier run: its epochs may have been scored on other samples.
    """
    if name in ENSEMBLES:
        parts = [trained_teacher(run, member, task, config)[0] for member in DIGIT_NETWORKS]
        mean = ENSEMBLES[name]
        return Ensemble(parts, mean), None  # pyright: ignore[reportArgumentType]
    network = new_teacher(name, task, config)
    file = _file(name, task)
    if config.trunks:
        kept = Path(config.trunks)
        load_trained(kept if kept.is_file() else kept / file, network)
        return network, None
    keep_freed_memory()
    on_epoch = run.each_epoch(teacher_work(name, task), f"{name} on {task.name}")
    recipe = Recipe(config.teacher_epochs, RATE, BATCH, config.mixed_precision)
    tested = Samples(task.shown_test, task.test.labels)
    with run.timed(f"teacher/{task.name}-{name}"):
        history = train(
            network, task.teaching, tested, recipe, seed=config.seed,
            checkpoint=run.folder / "trunks" / file, on_epoch=on_epoch,
        )  # fmt: skip
    scores = [record["val_accuracy"] for record in history if "val_accuracy" in record]
    return network, max(scores, default=None)


def teacher_units(task: DistillTask, config: DistillConfig) -> Iterator[Unit]:
    """Give the trainings of the teachers of a task that are not there already."""
    if config.trunks:
        return
    wanted = dict.fromkeys(
        member
        for name in config.teachers
        for member in (DIGIT_NETWORKS if name in ENSEMBLES else (name,))
    )
    for name in wanted:
        if name in DIGIT_NETWORKS or name in TRUNKS or ":" in name:
            yield Unit(_train_teacher, (task, config), (name,), (f"trunks/{_file(name, task)}",))


def _train_teacher(run: Run, task: DistillTask, config: DistillConfig, name: str) -> None:
    trained_teacher(run, name, task, config)


def _file(name: str, task: DistillTask) -> str:
    return f"{task.name}-{name.replace(':', '-')}.safetensors"


def new_teacher(name: str, task: DistillTask, config: DistillConfig) -> nn.Module:
    """Return an untrained teacher."""
    with torch_stream(config.seed, "teacher"):
        if name in DIGIT_NETWORKS:
            network: nn.Module = digit_network(name, task.n_classes)
        elif name in TRUNKS:
            network = build_trunk(name, n_classes=task.n_classes)
        else:
            base, _, qubits = name.partition(":")
            network = build_student(student(base, int(qubits)), task, config)
    channels_last = torch.channels_last
    is_wide = name == "alexnet"
    return network.to(memory_format=channels_last) if is_wide else network  # pyright: ignore


def teacher_work(name: str, task: DistillTask) -> float:
    """Return the work of one epoch, in images of LeNet."""
    return COST.get(name, 1.0) * len(task.teaching.labels)
