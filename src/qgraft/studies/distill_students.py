"""The students of a distillation study, by name.

`v1` is the published network; `v1-linear`, `v1-entangling` and `v1-no-circuit` change its read-out,
its circuit, or leave the circuit out; `v1-dressed` puts a dressed circuit on its convolutions.
`v2-<reduction>-<encoding>` are those of the second version, `...-plain` without entangling gates.
`classical` has no circuit and no more parameters. Any head of `qgraft.heads.registry` takes the
features of the teacher's trunk, or flattened pixels.
"""

from __future__ import annotations

from functools import partial
from math import pi
from typing import Any, NamedTuple, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from qgraft.config import DistillConfig
from qgraft.errors import ConfigError
from qgraft.heads.dense import DenseHead
from qgraft.heads.encoded_student import EncodedOptions, EncodedStudent, Encoding, Reduction
from qgraft.heads.product_student import (
    HIDDEN,
    AngleNet,
    CircuitKind,
    ClassicalStudent,
    ProductStudent,
    ReadOut,
    StudentOptions,
)
from qgraft.heads.registry import HEADS, build_head, takes_dressed_options
from qgraft.seeds import torch_stream
from qgraft.studies.distill_published import PUBLISHED_SHOTS
from qgraft.studies.distill_tasks import DistillTask
from qgraft.training.loop import as_float

V1_SIDE = 28
V1: dict[str, tuple[CircuitKind, ReadOut]] = {
    "v1": ("product", "sigmoid"),
    "v1-linear": ("product", "linear"),
    "v1-entangling": ("entangling", "sigmoid"),
    "v1-no-circuit": ("none", "linear"),
}
V1_DRESSED = "v1-dressed"
V2 = tuple(f"v2-{r}-{e}" for r in get_args(Reduction) for e in get_args(Encoding))
CLASSICAL = "classical"
PLAIN = "-plain"
STUDENTS = (*V1, V1_DRESSED, *V2, *(f"{name}{PLAIN}" for name in V2), CLASSICAL, *HEADS)
V1_CONTROLS = ("v1-linear", "v1-entangling", "v1-no-circuit", CLASSICAL)
DRESSED_CONTROLS = ("v1-no-circuit", CLASSICAL)
SIDE_BY_SIDE_BATCH = 16  # larger batches fill the processor by themselves


class Student(NamedTuple):
    """A student: its name and how many qubits it has."""

    name: str
    n_qubits: int

    @property
    def key(self) -> str:
        """Name of its files."""
        return f"{self.name}-{self.n_qubits}q"

    @property
    def is_v1(self) -> bool:
        """Tell whether it has the convolutions of the published student."""
        return self.name in V1 or self.name == V1_DRESSED


def student(name: str, n_qubits: int) -> Student:
    """Return the student `name`.

    Raises:
        ConfigError: there is no such student.
    """
    if name not in STUDENTS:
        from difflib import get_close_matches

        close = get_close_matches(name, STUDENTS, n=1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        raise ConfigError(
            f"unknown student {name!r}; {hint}use {', '.join(V1)}, {V1_DRESSED}, {CLASSICAL}, "
            f"v2-<{'|'.join(get_args(Reduction))}>-<{'|'.join(get_args(Encoding))}>[{PLAIN}], or "
            f"a head: {', '.join(HEADS)}"
        )
    return Student(name, n_qubits)


def controls_of(name: str) -> tuple[str, ...]:
    """Return the students that tell what the circuit of a student is worth."""
    if name == "v1":
        return V1_CONTROLS
    if name == V1_DRESSED:
        return DRESSED_CONTROLS
    if name in V2:
        return (f"{name}{PLAIN}", "no-circuit", CLASSICAL)
    if takes_dressed_options(name) and name == "dressed":
        return ("no-entanglers", "no-circuit", "matched")
    return ()


def build_student(
    which: Student, task: DistillTask, config: DistillConfig, *, like: Student | None = None
) -> nn.Module:
    """Build a student with fresh weights for the inputs of a task.

    Args:
        which: what to build.
        task: gives the shape of the inputs, the classes, and samples for principal components.
        config: shots, depth and gradient.
        like: the student that `classical` must not exceed in parameters.

    Raises:
        ModelError: it cannot be built for these inputs and classes.
    """
    n = which.n_qubits
    if which.name in V1:
        return _fitted(task, ProductStudent(task.n_classes, _v1_options(which, task, config)))
    if which.name == V1_DRESSED:
        return _fitted(task, _dressed_v1(task.n_classes, n, config.depth))
    if which.name == CLASSICAL:
        if like is None or like.is_v1:
            return _fitted(task, ClassicalStudent(task.n_classes, n))
        return _dense_like(build_student(like, task, config), task)
    if which.name.startswith("v2-"):
        return _v2_student(which, task, config)
    options = {"n_qubits": n, "depth": config.depth} if takes_dressed_options(which.name) else {}
    if which.name == "qcnn":
        options = {"n_qubits": n}
    width = int(torch.Size(task.shape).numel())
    return nn.Sequential(nn.Flatten(), build_head(which.name, width, task.n_classes, **options))


def _v1_options(which: Student, task: DistillTask, config: DistillConfig) -> StudentOptions:
    circuit, read_out = V1[which.name]
    options = StudentOptions(which.n_qubits, circuit, read_out, seed=config.seed)
    if circuit != "product":
        return options
    shots = config.shots
    if shots == "published":
        shots = PUBLISHED_SHOTS.get((task.classes, which.n_qubits), max(PUBLISHED_SHOTS.values()))
    return options._replace(shots=shots, published_gradient=config.published_gradient)


def _dressed_v1(n_classes: int, n_qubits: int, depth: int) -> nn.Module:
    """Return the published convolutions, then a dressed circuit instead of the published one."""
    convolutions = list(AngleNet(n_qubits))[:-1]
    head = build_head("dressed", HIDDEN, n_classes, n_qubits=n_qubits, depth=depth, scale=pi / 2)
    return nn.Sequential(*convolutions, head)


def _v2_student(which: Student, task: DistillTask, config: DistillConfig) -> EncodedStudent:
    _, reduction, encoding = which.name.removesuffix(PLAIN).split("-", 2)
    entangled = not which.name.endswith(PLAIN)
    options: Any = EncodedOptions(
        which.n_qubits, encoding, reduction, config.depth, entangled  # pyright: ignore
    )  # fmt: skip
    samples = as_float(task.training.inputs) if reduction == "pca" else None
    return EncodedStudent(task.shape, task.n_classes, options, samples=samples)


def _dense_like(other: nn.Module, task: DistillTask) -> nn.Module:
    """Return one hidden dense layer with no more parameters than another network."""
    budget = sum(p.numel() for p in other.parameters())
    width = int(torch.Size(task.shape).numel())
    hidden = max(1, (budget - task.n_classes) // (width + 1 + task.n_classes))
    return nn.Sequential(nn.Flatten(), DenseHead(width, task.n_classes, widths=(hidden,)))


def _fitted(task: DistillTask, network: nn.Module) -> nn.Module:
    """Return a network for 28 x 28 grey images behind what brings other images to that size."""
    if task.shape == (1, V1_SIDE, V1_SIDE):
        return network
    if len(task.shape) != 3:
        raise ConfigError(
            "this student takes images, the task has features; choose a head such as dressed"
        )
    return nn.Sequential(Shrunk(), network)


class Shrunk(nn.Module):
    """Average colours and areas of images to 28 x 28 grey pixels."""

    def forward(self, images: Tensor) -> Tensor:
        """Return `(batch, 1, 28, 28)`."""
        return F.adaptive_avg_pool2d(images.mean(1, keepdim=True), V1_SIDE)


def new_students(
    which: Student, task: DistillTask, config: DistillConfig, like: Student | None
) -> list[nn.Module]:
    """Return the students of all seeds, the same for every teacher."""
    build = partial(build_student, which, task, config, like=like)
    students = []
    for number in range(config.seeds):
        with torch_stream(config.seed, "student", number):
            students.append(build())
    return students


def trains_side_by_side(which: Student, config: DistillConfig) -> bool:
    """Tell whether the seeds of a student are trained together: small batches, nothing drawn."""
    # Batches of different students hold different numbers of labels, so their losses cannot be one.
    special = config.shots is not None or config.attention or config.relations or config.unlabelled
    is_small = which.name in V1 or which.name == CLASSICAL
    return is_small and not special and config.batch_size <= SIDE_BY_SIDE_BATCH
