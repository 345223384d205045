"""The surface-anomaly study, on embedded images and on photographs of steel."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from qgraft.cli.apps import app, reproduce
from qgraft.cli.options import (
    ClassesOption,
    ControlsOption,
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
    ResumeOption,
    SeedOption,
    SeedsOption,
    TuneOption,
    WeightsOption,
)
from qgraft.cli.settings import configurable, configured
from qgraft.cli.study import run_study, words


@app.command(epilog="Example: qgraft demo --out runs/demo")
@configurable
def demo(
    out: OutOption = Path("runs/demo"),
    seeds: SeedsOption = 1,
    controls: ControlsOption = True,
    seed: SeedOption = 0,
    resume: ResumeOption = False,
    json_file: JsonOption = None,
) -> None:
    """Do the main job on built-in synthetic steel: train, graft, cross-validate, report.

    Takes about two minutes on two cores and needs no data and no network.
    """
    from qgraft.config import SurfaceConfig
    from qgraft.studies.demo import DEMO_SETTINGS, run_demo
    from qgraft.studies.run import remove_run

    chosen = {"head_seeds": seeds, "controls": controls, "seed": seed}
    config = configured(SurfaceConfig, {**DEMO_SETTINGS, **chosen}, fixed=("study", "data"))
    if not resume:
        remove_run(out)
    run_study(out, config, resume, lambda run: run_demo(run, config), json_file)


@reproduce.command(
    epilog="Example: qgraft reproduce surface --data NEU-DET --models cm2,cm3 --protocol paper"
)
@configurable
def surface(
    data: Annotated[Path, typer.Option(help="Folder with IMAGES/ and ANNOTATIONS/.")],
    models: Annotated[
        str,
        typer.Option(
            help="Networks, separated by commas: cm1, cm2, cm3, mobilenetv2, resnet18, or the last "
            "two side by side, mobilenetv2+resnet18."
        ),
    ] = "cm1,cm2,cm3",
    task: Annotated[
        Literal["anomaly", "types"],
        typer.Option(help="Normal or anomalous, or which type a defect is of."),
    ] = "anomaly",
    protocol: ProtocolOption = "paper",
    inits: InitsOption = 5,
    epochs: EpochsOption = 120,
    head_epochs: HeadEpochsOption = 40,
    folds: FoldsOption = 6,
    seeds: SeedsOption = 5,
    controls: ControlsOption = True,
    seed: SeedOption = 0,
    weights: WeightsOption = None,
    tune_epochs: TuneOption = 0,
    per_class: PerClassOption = None,
    classes: ClassesOption = None,
    variants: Annotated[
        Literal["published", "all"], typer.Option(help="The nine grafts, or every k.")
    ] = "published",
    bf16: MixedOption = False,
    on_error: OnErrorOption = "fail",
    out: OutOption = Path("runs/surface"),
    resume: ResumeOption = False,
    json_file: JsonOption = None,
) -> None:
    """Repeat the surface-anomaly study (arXiv 2409.00228) on NEU-DET."""
    from qgraft.config import SurfaceConfig
    from qgraft.studies.surface import read_photographs, run_surface

    settings: dict[str, Any] = {
        "data": str(data),
        "models": words(models),
        "task": task,
        "weights": str(weights) if weights else None,
        "tune_epochs": tune_epochs,
        "protocol": protocol,
        "inits": inits,
        "epochs": epochs,
        "head_epochs": head_epochs,
        "folds": folds,
        "head_seeds": seeds,
        "controls": controls,
        "seed": seed,
        "variants": variants,
        "classes": words(classes),
        "mixed_precision": bf16,
        "on_error": on_error,
    }
    if per_class is not None:
        settings["per_class"] = per_class
    config = configured(SurfaceConfig, settings)
    photographs = read_photographs(config)
    run_study(out, config, resume, lambda run: run_surface(run, photographs, config), json_file)
