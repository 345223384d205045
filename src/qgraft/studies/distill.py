"""Knowledge distillation from classical to quantum networks (arXiv 2311.13810), made checkable.

A teacher is trained once per task and its logits are kept; students are trained from the same
seeds without and with it. Controls: a uniform teacher (label smoothing), students without a
circuit, with an entangling one, with another read-out, and without anything quantum.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

from qgraft.config import DistillConfig
from qgraft.errors import ConfigError
from qgraft.evaluation.audit.findings import worst_first
from qgraft.grafting import graft
from qgraft.heads.registry import HEADS
from qgraft.studies.distill_audit import audit_limits, audit_task
from qgraft.studies.distill_cells import Scores, cell_files, settings_of, train_cell
from qgraft.studies.distill_rows import (
    NOBODY,
    Cell,
    gains_by_dataset,
    notes,
    rows_of,
    teacher_row,
)
from qgraft.studies.distill_students import Student, build_student, controls_of, student
from qgraft.studies.distill_tasks import DistillTask, on_features
from qgraft.studies.distill_teachers import (
    ENSEMBLES,
    UNIFORM,
    Teacher,
    check_teacher,
    hear,
    teacher_units,
    teacher_work,
    trained_teacher,
)
from qgraft.studies.run import Run, Unit, keep_data
from qgraft.training.checkpoint import write_json
from qgraft.trunks.lenet import DIGIT_NETWORKS
from qgraft.trunks.registry import TRUNKS

SMALL_BATCH = 16


def run_distill(run: Run, tasks: Sequence[DistillTask], config: DistillConfig) -> dict[str, Any]:
    """Run the study in its directory and return what `result.json` holds.

    Args:
        run: an opened run directory.
        tasks: what to work on.
        config: what to do.

    Raises:
        ConfigError: the settings do not go together.
    """
    plans = [(task, _students(task, config)) for task in tasks]
    run.work = _work(plans, config)
    keep_data(run.folder, _described(tasks))
    cells, teachers = [], []
    run.spread(run, (unit for task in tasks for unit in teacher_units(task, config)))
    places = []
    for task, students in plans:
        heard = [hear(run, name, task, config) for name in _teachers(config)]
        teachers += [teacher_row(task, teacher) for teacher in heard]
        places.append((_for_students(run, task, config), students, heard))
    run.spread(run, (lesson.unit(config) for place in places for lesson in _lessons(*place)))
    for place in places:
        with run.timed(f"students/{place[0].name}"):
            cells += [lesson.cell(run, config) for lesson in _lessons(*place)]
    result = {
        "study": "distill",
        "rows": rows_of(cells, config),
        "teachers": teachers,
        "gains": gains_by_dataset(cells),
        "notes": [*notes(config), *audit_limits(tasks)],
        "audit": worst_first([found for task in tasks for found in audit_task(task)]),
        "data": {task.name: task.described() for task in tasks},
        "config": config.model_dump(mode="json"),
    }
    write_json(run.folder / "curves.json", _curves(cells))
    write_json(run.folder / "result.json", result)
    run.advance(run.work, "done")
    run.finish()
    return result


def check_settings(config: DistillConfig) -> None:
    """Refuse settings that could only fail after hours of training.

    Raises:
        ConfigError: a name is unknown or settings do not go together.
    """
    settings_of(config)
    for name in config.teachers:
        check_teacher(name)
    for name in config.students:
        student(name, config.qubits[0])


def _teachers(config: DistillConfig) -> list[str]:
    wanted = list(config.teachers)
    return [*wanted, UNIFORM] if config.controls and UNIFORM not in wanted else wanted


def _students(task: DistillTask, config: DistillConfig) -> list[tuple[Student, Student | None]]:
    """Return the students of a task with the student they are a control of, if any.

    Raises:
        ConfigError: none can tell the classes apart.
    """
    found: list[tuple[Student, Student | None]] = []
    for name in config.students:
        for n_qubits in config.qubits:
            which = student(name, n_qubits)
            found.append((which, None))
            if config.controls:
                found += [(student(c, n_qubits), which) for c in controls_of(name)]
    if not any(name in HEADS for name in config.students):
        for which, like in found:  # so that what cannot be built is known at once
            build_student(which, task, config, like=like)
    return found


def _for_students(run: Run, task: DistillTask, config: DistillConfig) -> DistillTask:
    """Return the task on features of the teacher's trunk, where heads are taught by such a one."""
    trunks = [name for name in config.teachers if name in TRUNKS]
    heads = [name for name in config.students if name in HEADS]
    if not trunks or not heads:
        return task
    if len(heads) < len(config.students) or len(trunks) > 1:
        raise ConfigError(
            "heads take the features of one network; ask for heads alone and one of "
            f"{', '.join(TRUNKS)}"
        )
    network, _ = trained_teacher(run, trunks[0], task, config)
    return on_features(task, graft(network, "all", head="dense").trunk)


class _Lesson(NamedTuple):
    """A student under one teacher, or under nobody."""

    task: DistillTask
    which: Student
    like: Student | None
    teacher: Teacher | None

    @property
    def name(self) -> str:
        return self.teacher.name if self.teacher else NOBODY

    def unit(self, config: DistillConfig) -> Unit:
        file = _file_name(self.name)
        leaves = tuple(f"heads/{f}" for f in cell_files(self.which, self.task, file, config))
        shared = self.task, self.teacher, config
        return Unit(_train_lesson, shared, (self.which, self.like), leaves)

    def cell(self, run: Run, config: DistillConfig) -> Cell:
        scores = _scores_of(run, self, config)
        return Cell(self.task, self.which, self.name, scores, self.like is not None)


def _lessons(
    task: DistillTask,
    students: list[tuple[Student, Student | None]],
    teachers: list[Teacher],
) -> Iterator[_Lesson]:
    """Give all lessons of a task; label smoothing is a control of the student asked for only."""
    for which, like in students:
        for teacher in (None, *teachers):
            if like is None or teacher is None or teacher.name != UNIFORM:
                yield _Lesson(task, which, like, teacher)


def _train_lesson(
    run: Run,
    task: DistillTask,
    teacher: Teacher | None,
    config: DistillConfig,
    which: Student,
    like: Student | None,
) -> None:
    with run.timed(f"students/{task.name}"):
        _scores_of(run, _Lesson(task, which, like, teacher), config)


def _scores_of(run: Run, lesson: _Lesson, config: DistillConfig) -> Scores:
    task, which, teacher = lesson.task, lesson.which, lesson.teacher
    who = f"{which.name} taught by {lesson.name}"
    return train_cell(
        which, task, _file_name(lesson.name), teacher.taught if teacher else None, config,
        folder=run.folder / "heads", like=lesson.like,
        on_epoch=partial(_advance, run, task, config.batch_size, who),
    )  # fmt: skip


def _file_name(teacher: str) -> str:
    safe = "".join(c if c.isalnum() or c in "-_" else "-" for c in teacher)
    return safe[:60]


def _advance(
    run: Run, task: DistillTask, batch_size: int, who: str, done: float, accuracy: float
) -> None:
    note = f"{who} on {task.name}, accuracy {100 * accuracy:.1f} %"
    run.advance(done * _student_work(task, batch_size), note)


def _student_work(task: DistillTask, batch_size: int) -> float:
    """Return the work of one epoch of one student, in images a LeNet learns from."""
    return (4.0 if batch_size <= SMALL_BATCH else 0.5) * len(task.training.labels)


def _work(plans: list[Any], config: DistillConfig) -> float:
    total = 0.0
    for task, students in plans:
        trained = {n for n in config.teachers if n in DIGIT_NETWORKS or n in TRUNKS or ":" in n}
        if set(config.teachers) & set(ENSEMBLES):
            trained |= set(DIGIT_NETWORKS)
        if not config.trunks:
            total += config.teacher_epochs * sum(teacher_work(name, task) for name in trained)
        n_cells = len(students) * (1 + len(config.teachers))
        n_cells += sum(like is None for _, like in students) * config.controls
        total += n_cells * config.seeds * config.epochs * _student_work(task, config.batch_size)
    return total


def _described(tasks: Sequence[DistillTask]) -> dict[str, Any]:
    parts = {task.name: task.described() for task in tasks}
    joined = "".join(part["digest"] for part in parts.values())
    digest = hashlib.sha256(joined.encode()).hexdigest()
    return {"digest": digest, "splits": None, "tasks": parts}


def _curves(cells: Sequence[Cell]) -> dict[str, list[float]]:
    """Return the mean validation accuracy per epoch of every cell."""
    return {
        f"{c.task.name}/{c.student.key}/{c.teacher}": [
            round(float(v), 6) for v in c.scores.validation.mean(axis=0)
        ]
        for c in cells
    }
