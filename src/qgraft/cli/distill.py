"""Distillation: a teacher of one's choice on one's own data, and the published study."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from qgraft.cli.apps import app, reproduce
from qgraft.cli.options import JsonOption, MixedOption, OutOption, ResumeOption, SeedOption
from qgraft.cli.settings import configurable, configured
from qgraft.cli.study import run_study, words
from qgraft.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from rich.table import Table

    from qgraft.config import DistillConfig
    from qgraft.studies.distill_tasks import DistillTask

EMBEDDED = "embedded"
QUICK: dict[str, Any] = {
    "data": EMBEDDED, "datasets": (EMBEDDED,), "per_class": 40, "batch_size": 8, "epochs": 15,
    "learning_rate": 5e-3, "seeds": 3, "controls": False,
}  # fmt: skip
VERSIONS: dict[str, dict[str, Any]] = {
    "v1": {"students": ("v1",), "qubits": (3,), "classes": ("0-5",), "per_class": 150,
           "batch_size": 16, "learning_rate": 2e-3, "epochs": 20},
    "v2": {"students": ("v2-fc-amplitude",), "qubits": (4,), "classes": ("all",),
           "per_class": "all", "batch_size": 64, "learning_rate": 3e-3, "epochs": 10},
}  # fmt: skip
PAPER: dict[str, Any] = {
    "protocol": "paper", "form": "published", "shots": "published", "published_gradient": True,
    "controls": False, "batch_size": 1, "learning_rate": 1e-3, "epochs": 10,
}  # fmt: skip

PerClass = Annotated[
    str | None, typer.Option(help="Labelled images per class for the student, or all.")
]
Unlabelled = Annotated[
    int, typer.Option(help="Further training images that only the teacher speaks about.")
]
Epochs = Annotated[int | None, typer.Option(help="Epochs of a student.")]
Batch = Annotated[int | None, typer.Option(help="Images in a step of a student.")]
LearningRate = Annotated[float | None, typer.Option(help="Learning rate of a student.")]
Alpha = Annotated[float, typer.Option(help="Weight of the teacher, 0 to 1.")]
Temperature = Annotated[float, typer.Option(help="Divides the logits in the teacher's part.")]
LastTemperature = Annotated[
    float | None, typer.Option(help="Temperature of the last epoch; needs --schedule.")
]
Schedule = Annotated[
    Literal["constant", "linear", "cosine"], typer.Option(help="How the temperature moves.")
]
Form = Annotated[
    Literal["weighted", "published"],
    typer.Option(help="Weight of the labels: 1 - alpha, or 1 as published."),
]
Attention = Annotated[float, typer.Option(help="Weight of matching attention maps.")]
Relations = Annotated[float, typer.Option(help="Weight of matching relations in a batch.")]
TeacherEpochs = Annotated[int, typer.Option(help="Epochs of a teacher.")]
Trunks = Annotated[
    Path | None,
    typer.Option(help="Trained teacher, or the folder trunks/ of an earlier run."),
]
Controls = Annotated[
    bool, typer.Option(help="Train students without the circuit and a uniform teacher as well.")
]
Seeds = Annotated[int | None, typer.Option(help="Students of each kind; 10, or 1 as published.")]
Shots = Annotated[int | None, typer.Option(help="Runs of the circuit per image; exact if unset.")]


@reproduce.command(
    "distill",
    epilog="Example: qgraft reproduce distill --data DATA --classes 0-5,0-7 --qubits 3",
)
@configurable
def reproduce_distill(
    data: Annotated[
        Path | None, typer.Option(help="Folder with mnist/ and fashion-mnist/, four files each.")
    ] = None,
    version: Annotated[
        Literal["v1", "v2"], typer.Option(help="The published version: v1 or v2.")
    ] = "v1",
    protocol: Annotated[
        Literal["clean", "paper"],
        typer.Option(help="clean: validation images choose the epoch. paper: the test images do."),
    ] = "clean",
    datasets: Annotated[str, typer.Option(help="Data sets.")] = "mnist,fashion-mnist",
    classes: Annotated[str | None, typer.Option(help="0-5, 0-7 or all.")] = None,
    qubits: Annotated[str | None, typer.Option(help="Qubits of the students.")] = None,
    teachers: Annotated[
        str, typer.Option(help="lenet, alexnet, ensemble, uniform, NAME:QUBITS, a file of logits.")
    ] = "lenet",
    students: Annotated[str | None, typer.Option(help="Students, as v1 or v2-fc-angle.")] = None,
    seeds: Seeds = None,
    controls: Controls = True,
    per_class: PerClass = None,
    unlabelled: Unlabelled = 0,
    epochs: Epochs = None,
    batch_size: Batch = None,
    learning_rate: LearningRate = None,
    shots: Shots = None,
    alpha: Alpha = 0.9,
    temperature: Temperature = 3.0,
    last_temperature: LastTemperature = None,
    schedule: Schedule = "constant",
    form: Form = "weighted",
    attention: Attention = 0.0,
    relations: Relations = 0.0,
    teacher_epochs: TeacherEpochs = 10,
    trunks: Trunks = None,
    bf16: MixedOption = False,
    seed: SeedOption = 0,
    quick: Annotated[
        bool, typer.Option("--quick", help="Few seeds on embedded small digits; needs no data.")
    ] = False,
    out: OutOption = Path("runs/distill"),
    resume: ResumeOption = False,
    json_file: JsonOption = None,
) -> None:
    """Repeat the distillation from classical to quantum networks (arXiv 2311.13810)."""
    if (data is None) != quick:
        raise ConfigError(
            "give either --data with the folder of MNIST and Fashion-MNIST, or --quick for the "
            "small embedded digits"
        )
    if protocol == "paper" and version == "v2":
        raise ConfigError("the recipe of version 2 was not published; use --protocol clean")
    settings: dict[str, Any] = {
        **VERSIONS[version],
        "data": str(data),
        "datasets": words(datasets),
        "teachers": words(teachers) or (),
        "controls": controls,
        "unlabelled": unlabelled,
        "seeds": 1 if protocol == "paper" else 10,
        "teacher_epochs": teacher_epochs,
        "trunks": str(trunks) if trunks else None,
        "mixed_precision": bf16,
        "alpha": alpha,
        "temperature": temperature,
        "last_temperature": last_temperature,
        "schedule": schedule,
        "form": form,
        "attention": attention,
        "relations": relations,
        "seed": seed,
    }
    settings |= PAPER if protocol == "paper" else {}
    settings |= QUICK if quick else {}
    settings |= _given(
        classes=words(classes), qubits=_numbers("--qubits", qubits), students=words(students),
        seeds=seeds, per_class=_per_class(per_class), epochs=epochs, batch_size=batch_size,
        learning_rate=learning_rate, shots=shots,
    )  # fmt: skip

    def read(config: DistillConfig) -> Sequence[DistillTask]:
        from qgraft.studies.distill_tasks import digit_tasks, embedded_task

        if quick:
            return [
                embedded_task(
                    protocol=config.protocol, per_class=config.per_class,
                    unlabelled=config.unlabelled,
                )
            ]  # fmt: skip
        return digit_tasks(
            Path(config.data), config.datasets, config.classes, protocol=config.protocol,
            per_class=config.per_class, unlabelled=config.unlabelled,
        )  # fmt: skip

    _run(settings, read, out, resume, json_file)


@app.command(epilog="Example: qgraft distill --data NEU-DET --teacher cm3 --student dressed")
@configurable
def distill(
    data: Annotated[
        Path, typer.Option(help="Images in any layout that fit reads, or the files of MNIST.")
    ],
    teacher: Annotated[
        str, typer.Option(help="lenet, alexnet, cm1 to cm3, NAME:QUBITS, or a file of logits.")
    ],
    student: Annotated[
        str, typer.Option(help="v1, v2-fc-amplitude, classical, ..., or a head such as dressed.")
    ],
    qubits: Annotated[int, typer.Option(help="Qubits of the student.")] = 5,
    classes: Annotated[str, typer.Option(help="Of digits: 0-5, 0-7 or all.")] = "all",
    seeds: Seeds = 10,
    controls: Controls = False,
    per_class: PerClass = None,
    unlabelled: Unlabelled = 0,
    epochs: Epochs = 20,
    batch_size: Batch = 64,
    learning_rate: LearningRate = 2e-3,
    depth: Annotated[int, typer.Option(help="Layers of the student's circuit.")] = 3,
    shots: Shots = None,
    alpha: Alpha = 0.9,
    temperature: Temperature = 3.0,
    last_temperature: LastTemperature = None,
    schedule: Schedule = "constant",
    form: Form = "weighted",
    attention: Attention = 0.0,
    relations: Relations = 0.0,
    teacher_epochs: TeacherEpochs = 10,
    teacher_weights: Trunks = None,
    bf16: MixedOption = False,
    seed: SeedOption = 0,
    out: OutOption = Path("runs/distilled"),
    resume: ResumeOption = False,
    json_file: JsonOption = None,
) -> None:
    """Let a teacher teach a quantum, or a classical, student, and measure what that is worth."""
    settings = {
        "data": str(data),
        "datasets": (data.resolve().name or "images",),
        "classes": (classes,),
        "qubits": (qubits,),
        "teachers": (teacher,),
        "students": (student,),
        "seeds": seeds,
        "controls": controls,
        "per_class": _per_class(per_class) or "all",
        "unlabelled": unlabelled,
        "epochs": epochs,
        "batch_size": batch_size,
        "learning_rate": learning_rate,
        "depth": depth,
        "shots": shots,
        "alpha": alpha,
        "temperature": temperature,
        "last_temperature": last_temperature,
        "schedule": schedule,
        "form": form,
        "attention": attention,
        "relations": relations,
        "teacher_epochs": teacher_epochs,
        "trunks": str(teacher_weights) if teacher_weights else None,
        "mixed_precision": bf16,
        "seed": seed,
    }

    def read(config: DistillConfig) -> Sequence[DistillTask]:
        from qgraft.studies.distill_tasks import own_task

        return [
            own_task(
                Path(config.data), config.classes[0], per_class=config.per_class,
                unlabelled=config.unlabelled, seed=config.seed,
            )
        ]  # fmt: skip

    _run(settings, read, out, resume, json_file)


def _run(
    settings: dict[str, Any],
    read: Callable[[DistillConfig], Sequence[DistillTask]],
    out: Path,
    resume: bool,
    json_file: Path | None,
) -> None:
    from qgraft.config import DistillConfig
    from qgraft.studies.distill import check_settings, run_distill

    config = configured(DistillConfig, settings)
    check_settings(config)
    tasks = read(config)
    run_study(
        out, config, resume, lambda run: run_distill(run, tasks, config), json_file, report=_report
    )


def _report(out: Path) -> tuple[Path, Table]:
    from qgraft.reports.distill import distill_table, read_distill, write_distill_report

    return write_distill_report(out), distill_table(read_distill(out))


def _given(**values: Any) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def _per_class(text: str | None) -> int | str | None:
    return int(text) if text is not None and text.isdecimal() else text


def _numbers(option: str, text: str | None) -> tuple[int, ...] | None:
    """Read numbers separated by commas.

    Raises:
        ConfigError: a word is no number.
    """
    parts = words(text)
    if parts is not None and not all(part.isdecimal() for part in parts):
        raise ConfigError(f"{option} {text!r}: give numbers separated by commas, as 3,4")
    return None if parts is None else tuple(map(int, parts))
