"""One cell of a distillation study: a student under one teacher, trained from several seeds.

Every seed has its own initial weights and order of samples, the same under every teacher, so
accuracies are compared seed by seed. After each epoch the validation images are scored; the test
predictions of the epoch best on them are kept. Students leave one file, or one for all where they
are trained side by side, and are not trained again.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from qgraft.config import DistillConfig
from qgraft.errors import RunError
from qgraft.seeds import derive, numpy_rng
from qgraft.studies.distill_students import (
    Student,
    new_students,
    trains_side_by_side,
)
from qgraft.studies.distill_tasks import DistillTask
from qgraft.training.checkpoint import load_tensors, save_tensors
from qgraft.training.distillation import Distillation, Taught, distilled
from qgraft.training.kept import EpochRecord
from qgraft.training.loop import Loss, Recipe, Samples, label_loss, predict_logits, train
from qgraft.training.side_by_side import SideBySide, loss_of_all, samples_for_all
from qgraft.training.stopping import stop_if_asked

OnEpoch = Callable[[float, float], None]  # students' epochs done, mean validation accuracy


class Scores(NamedTuple):
    """What the students of a cell reached.

    Attributes:
        right: `(n_seeds, n_test)` which test samples each called right, at its best epoch.
        validation: `(n_seeds, epochs)` accuracy on the validation samples.
        losses: `(n_seeds, epochs)` mean training loss.
        n_params: trainable parameters of one student.
    """

    right: np.ndarray
    validation: np.ndarray
    losses: np.ndarray
    n_params: int

    @property
    def accuracies(self) -> np.ndarray:
        """Test accuracies as fractions, one per seed."""
        return self.right.mean(axis=1)


def settings_of(config: DistillConfig) -> Distillation:
    """Return how students learn from a teacher."""
    return Distillation(
        config.alpha, config.temperature, config.last_temperature, config.schedule, config.form,
        config.attention, config.relations,
    ).checked()  # fmt: skip


def train_cell(
    which: Student,
    task: DistillTask,
    teacher: str,
    taught: Taught | None,
    config: DistillConfig,
    *,
    folder: Path,
    like: Student | None = None,
    on_epoch: OnEpoch = lambda done, accuracy: None,
) -> Scores:
    """Train the students of one cell, or read what an earlier run left.

    Args:
        which: the student.
        task: its samples.
        teacher: the teacher's name, for the file.
        taught: what the teacher says, or None for a student that learns from labels alone.
        config: recipe and seeds.
        folder: where the file of the cell is kept.
        like: the student a classical one stands beside.
        on_epoch: told of every epoch.
    """
    students = new_students(which, task, config, like)
    if taught is None:
        task = task._replace(training=task.labels_only)
    parts = []
    for name, seeds in zip(
        cell_files(which, task, teacher, config), _groups(which, config), strict=True
    ):
        group = students[seeds.start : seeds.stop]
        path = folder / name
        if path.exists():
            tensors = _read(path, len(group), config.epochs, len(task.test.labels))
            done = float(len(group) * config.epochs)
            on_epoch(done, float(tensors["validation"][:, -1].mean()))
        else:
            tensors = _train_group(group, seeds, task, taught, config, on_epoch)
            save_tensors(path, tensors)
        parts.append(_scores(tensors))
    rights, curves, losses, n_params = zip(*parts, strict=True)
    return Scores(
        np.concatenate(rights), np.concatenate(curves), np.concatenate(losses), n_params[0]
    )


def cell_files(which: Student, task: DistillTask, teacher: str, config: DistillConfig) -> list[str]:
    """Return the files that a cell leaves below its folder, one per group of seeds."""
    groups = _groups(which, config)
    endings = [""] if len(groups[0]) > 1 else [f"-{seeds.start}" for seeds in groups]
    return [f"{task.name}/{which.key}-{teacher}{ending}.safetensors" for ending in endings]


def _groups(which: Student, config: DistillConfig) -> list[range]:
    """Return the seeds that are trained together."""
    if trains_side_by_side(which, config) and config.seeds > 1:
        return [range(config.seeds)]
    return [range(seed, seed + 1) for seed in range(config.seeds)]


def _train_group(
    students: list[nn.Module],
    seeds: range,
    task: DistillTask,
    taught: Taught | None,
    config: DistillConfig,
    on_epoch: OnEpoch,
) -> dict[str, Tensor]:
    """Return what a cell keeps of students trained together, one row per seed."""
    together = len(students) > 1
    orders = [_order(len(task.training.labels), config.seed, seed) for seed in seeds]
    model = SideBySide(students) if together else students[0]
    samples = (
        samples_for_all(task.training, orders)
        if together
        else Samples(_ready(task.training, config), task.training.labels)
    )
    best = _Best(model, students[0], task, len(students))

    def after(new: int, history: list[EpochRecord]) -> None:
        best.look()
        stop_if_asked()
        on_epoch(float(len(students) * new), float(best.validation[-1].mean()))

    recipe = Recipe(config.epochs, config.learning_rate, config.batch_size)
    stream = derive(config.seed, "training", seeds[0])
    if taught is None:
        history = _train(model, samples, recipe, stream, label_loss, orders, together, after)
    else:
        how = settings_of(config)
        with distilled(model, taught, how, epochs=config.epochs) as loss:
            history = _train(model, samples, recipe, stream, loss, orders, together, after)
    losses = torch.tensor([[record["train_loss"] for record in history]]) / len(students)
    return best.kept(losses)


def _train(
    model: nn.Module,
    samples: Samples,
    recipe: Recipe,
    seed: int,
    loss: Loss,
    orders: list[np.ndarray],
    together: bool,
    after: Callable[[int, list[EpochRecord]], None],
) -> list[EpochRecord]:
    chosen = loss_of_all(loss, orders) if together else loss
    return train(model, samples, None, recipe, seed=seed, on_epoch=after, loss=chosen)


def _order(n: int, seed: int, number: int) -> np.ndarray:
    return numpy_rng(seed, "student order", number).permutation(n)


def _ready(samples: Samples, config: DistillConfig) -> Tensor:
    """Return inputs as floats where steps are so small that converting them would take longest."""
    if samples.inputs.dtype != torch.uint8 or config.batch_size > 16:
        return samples.inputs
    return samples.inputs.float() / 255


class _Best:
    """The students at their best epochs on the validation samples, the earliest where equal."""

    def __init__(self, model: nn.Module, one: nn.Module, task: DistillTask, n: int) -> None:
        self.model, self.one, self.task = model, one, task
        self.validation: list[Tensor] = []
        self.reached = torch.full((n,), -1.0)
        self.states: list[dict[str, Tensor]] = [{} for _ in range(n)]

    def look(self) -> None:
        """Score the epoch that has just ended."""
        samples, n = self.task.validation, len(self.states)
        logits = predict_logits(self.model, samples.inputs).view(len(samples.labels), n, -1)
        found = (logits.argmax(-1) == samples.labels[:, None]).float().mean(0)
        self.validation.append(found)
        for k in torch.nonzero(found > self.reached).flatten().tolist():
            self.reached[k], self.states[k] = found[k], self._state(k)

    def _state(self, number: int) -> dict[str, Tensor]:
        if isinstance(self.model, SideBySide):
            return self.model.member_state(number)
        return {name: t.detach().clone() for name, t in self.model.state_dict().items()}

    def kept(self, losses: Tensor) -> dict[str, Tensor]:
        """Score the best epochs on the test samples; return scores and weights, a row each."""
        rights = []
        for state in self.states:
            self.one.load_state_dict(state)
            said = predict_logits(self.one, self.task.test.inputs).argmax(-1)
            rights.append(said == self.task.test.labels)
        names = list(self.states[0])
        n, n_params = len(rights), sum(p.numel() for p in self.one.parameters() if p.requires_grad)
        return {f"state.{name}": torch.stack([s[name] for s in self.states]) for name in names} | {
            "right": torch.stack(rights),
            "validation": torch.stack(self.validation, dim=1),
            "losses": losses.expand(n, -1).contiguous(),
            "n_params": torch.full((n,), n_params),
        }


def _read(path: Path, n_seeds: int, epochs: int, n_test: int) -> dict[str, Tensor]:
    tensors = load_tensors(path)
    expected = {"right": (n_seeds, n_test), "validation": (n_seeds, epochs),
                "losses": (n_seeds, epochs), "n_params": (n_seeds,)}  # fmt: skip
    found = {name: tuple(tensors[name].shape) for name in expected if name in tensors}
    if found != expected:
        raise RunError(
            f"{path} holds results {found.get('right')}, not those of {n_seeds} students on "
            f"{n_test} samples; delete it and run again"
        )
    return tensors


def _scores(tensors: dict[str, Tensor]) -> Scores:
    return Scores(
        tensors["right"].numpy(), tensors["validation"].numpy(), tensors["losses"].numpy(),
        int(tensors["n_params"][0]),
    )  # fmt: skip
