"""Options that several commands share, each described once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

Protocol = Literal["paper", "clean"]
OnError = Literal["fail", "skip"]

ProtocolOption = Annotated[
    Protocol,
    typer.Option(
        help="clean: photographs kept together, outer hold-out, matched crops. "
        "paper: as published, leaks labelled."
    ),
]
InitsOption = Annotated[int, typer.Option(help="Initialisations of a network; the best is kept.")]
EpochsOption = Annotated[int, typer.Option(help="Epochs of the classical stage.")]
HeadEpochsOption = Annotated[int, typer.Option(help="Epochs of a head.")]
FoldsOption = Annotated[int, typer.Option(help="Folds of the hybrid stage.")]
SeedOption = Annotated[int, typer.Option(help="Decides every random draw.")]
SeedsOption = Annotated[int, typer.Option(help="Times each head is trained from new weights.")]
ControlsOption = Annotated[
    bool, typer.Option(help="Train classical and ablated heads beside every quantum head.")
]
QubitsOption = Annotated[int, typer.Option(help="Qubits of the head, 1 to 12.")]
DepthOption = Annotated[int, typer.Option(help="Entangling layers of the head.")]
JobsOption = Annotated[
    int | None,
    typer.Option(
        envvar="QGRAFT_JOBS",
        help="Trainings at the same time, each on one core, by default as many as there are cores; "
        "any number gives the same result.",
    ),
]
DaskOption = Annotated[
    str | None,
    typer.Option(
        metavar="ADDRESS",
        help="Train on the workers of this dask scheduler, as tcp://host:8786, or its file.",
    ),
]
OutOption = Annotated[Path, typer.Option(help="Run directory.")]
ResumeOption = Annotated[bool, typer.Option("--resume", help="Go on with a stopped run.")]
JsonOption = Annotated[
    Path | None, typer.Option("--json", help="Write the result here too; - for standard output.")
]
MixedOption = Annotated[
    bool, typer.Option("--bf16", help="Train networks in bfloat16: faster, slightly coarser.")
]
OnErrorOption = Annotated[OnError, typer.Option(help="What to do about unreadable files.")]
PerClassOption = Annotated[int | None, typer.Option(help="Images per class made from boxes.")]
ClassesOption = Annotated[
    str | None, typer.Option(help="Defect classes to use, separated by commas.")
]
WeightsOption = Annotated[
    Path | None,
    typer.Option(
        help="Weights that mobilenetv2 or resnet18 start from, a file or its folder; for "
        "mobilenetv2+resnet18 a folder that holds both; by default weights/ in $QGRAFT_DATA."
    ),
]
TuneOption = Annotated[
    int,
    typer.Option(help="Epochs a pretrained network is tuned in; 0 leaves it frozen as it came."),
]
