"""Fit a model to one's own images, and use it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from qgraft.cli.apps import app
from qgraft.cli.options import (
    ClassesOption,
    DepthOption,
    EpochsOption,
    FoldsOption,
    HeadEpochsOption,
    InitsOption,
    JsonOption,
    MixedOption,
    OnErrorOption,
    OutOption,
    PerClassOption,
    ProtocolOption,
    QubitsOption,
    ResumeOption,
    SeedOption,
    TuneOption,
    WeightsOption,
)
from qgraft.cli.settings import configurable, configured
from qgraft.cli.study import run_study, words


@app.command(epilog="Example: qgraft fit parts/ --head dressed --epochs 30 --out runs/parts")
@configurable
def fit(
    data: Annotated[
        Path,
        typer.Argument(
            help="Folder with normal/ and anomalous/, with one folder per class, with images "
            "and VOC boxes, or a CSV manifest (path, label, group, split)."
        ),
    ],
    trunk: Annotated[
        str,
        typer.Option(
            help="Network to train: cm1, cm2, cm3, mobilenetv2, resnet18, mobilenetv2+resnet18."
        ),
    ] = "cm2",
    trunk_weights: Annotated[
        Path | None, typer.Option(help="Trained network of an earlier run, not trained again.")
    ] = None,
    weights: WeightsOption = None,
    tune_epochs: TuneOption = 0,
    head: Annotated[str, typer.Option(help="Head to graft.")] = "dressed",
    replace_last: Annotated[str, typer.Option(help="Dense layers to replace: k or all.")] = "all",
    protocol: ProtocolOption = "clean",
    inits: InitsOption = 1,
    epochs: EpochsOption = 30,
    head_epochs: HeadEpochsOption = 40,
    folds: FoldsOption = 6,
    seed: SeedOption = 0,
    n_qubits: QubitsOption = 5,
    depth: DepthOption = 3,
    colour: Annotated[bool, typer.Option("--colour", help="Use colour, not grey.")] = False,
    per_class: PerClassOption = None,
    classes: ClassesOption = None,
    bf16: MixedOption = False,
    on_error: OnErrorOption = "fail",
    out: OutOption = Path("runs/fit"),
    resume: ResumeOption = False,
    json_file: JsonOption = None,
) -> None:
    """Fit a grafted model to your own images and report how good it is."""
    from qgraft.config import FitConfig
    from qgraft.studies.fit import read_images, run_fit

    config = configured(
        FitConfig,
        {
            "data": str(data),
            "trunk": trunk,
            "trunk_weights": str(trunk_weights) if trunk_weights else None,
            "weights": str(weights) if weights else None,
            "tune_epochs": tune_epochs,
            "head": head,
            "replace_last": int(replace_last) if replace_last.isdecimal() else replace_last,
            "protocol": protocol,
            "inits": inits,
            "epochs": epochs,
            "head_epochs": head_epochs,
            "folds": folds,
            "seed": seed,
            "n_qubits": n_qubits,
            "depth": depth,
            "colour": colour,
            "per_class": per_class,
            "classes": words(classes),
            "mixed_precision": bf16,
            "on_error": on_error,
        },
    )
    images = read_images(config)
    run_study(out, config, resume, lambda run: run_fit(run, images, config), json_file)


@app.command(epilog="Example: qgraft predict runs/parts new/*.jpg --format json")
def predict(
    run: Annotated[Path, typer.Argument(help="Directory of a finished run.")],
    paths: Annotated[list[str], typer.Argument(help="Images, folders and patterns.")],
    variant: Annotated[
        str | None, typer.Option(help="Which hybrid, as CM-2/QTL-M-3; the best by default.")
    ] = None,
    threshold: Annotated[
        str | None,
        typer.Option(
            help="Call anomalous from here on: f1, recall:R, precision:P or false-alarms:A, chosen "
            "on the run's validation images, or a number; by default the more probable class."
        ),
    ] = None,
    calibrated: Annotated[
        bool, typer.Option("--calibrated", help="Give scores as calibrated probabilities.")
    ] = False,
    kind: Annotated[Literal["csv", "json"], typer.Option("--format", help="Output.")] = "csv",
    out: Annotated[
        Path | None, typer.Option(help="File to write; standard output by default.")
    ] = None,
    on_error: OnErrorOption = "fail",
) -> None:
    """Score images with a fitted model: path, pred_score, pred_label."""
    from qgraft.errors import ImageError
    from qgraft.studies.predict import find_images, format_predictions, load_fitted
    from qgraft.studies.predict import predict as score_images
    from qgraft.terminal import Meter
    from qgraft.training.checkpoint import atomic_write

    images = find_images(paths)
    rows, skipped = [], 0
    with Meter("scoring") as meter:
        fitted = load_fitted(run, variant, threshold=threshold, calibrated=calibrated)
        for number, outcome in enumerate(score_images(fitted, images, on_error=on_error), 1):
            if isinstance(outcome, ImageError):
                skipped += 1
                typer.echo(f"skipped: {outcome}", err=True)
            else:
                rows.append(outcome)
            meter(number, len(images), f"{number} of {len(images)} images")
    text = format_predictions(rows, kind)
    if out:
        atomic_write(out, text)
    else:
        sys.stdout.write(text)
    if skipped:
        typer.echo(f"{skipped} of {len(images)} files skipped", err=True)
