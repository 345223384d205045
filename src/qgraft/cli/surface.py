"""The surface-anomaly study, on embedded images and on photographs of steel."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from qgraft.cli.apps import app, reproduce
from qgraft.cli.options import (
    ClassesOption,
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
)
from qgraft.cli.study import run_study, words


@app.command(epilog="Example: qgraft demo --out runs/demo")
def demo(
    out: OutOption = Path("runs/demo"),
    seed: SeedOption = 0,
    json_file: JsonOption = None,
) -> None:
    """Do the main job on built-in synthetic steel: train, graft, cross-validate, report.

    Takes about two minutes on two cores and needs no data and no network.
    """
    from qgraft.config import SurfaceConfig, resolve
    from qgraft.studies.demo import DEMO_SETTINGS, run_demo
    from qgraft.studies.run import remove_run

    config = resolve(SurfaceConfig, {**DEMO_SETTINGS, "seed": seed})
    remove_run(out)
    run_study(out, config, False, lambda run: run_demo(run, config), json_file)


@reproduce.command(
    epilog="Example: qgraft reproduce surface --data NEU-DET --models cm2,cm3 --protocol paper"
)
def surface(
    data: Annotated[Path, typer.Option(help="Folder with IMAGES/ and ANNOTATIONS/.")],
    models: Annotated[str, typer.Option(help="Networks, separated by commas.")] = "cm1,cm2,cm3",
    protocol: ProtocolOption = "paper",
    inits: InitsOption = 5,
    epochs: EpochsOption = 120,
    head_epochs: HeadEpochsOption = 40,
    folds: FoldsOption = 6,
    seed: SeedOption = 0,
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
    from qgraft.config import SurfaceConfig, resolve
    from qgraft.data.neu_det import load_photographs
    from qgraft.studies.surface import run_surface

    settings: dict[str, Any] = {
        "data": str(data),
        "models": words(models),
        "protocol": protocol,
        "inits": inits,
        "epochs": epochs,
        "head_epochs": head_epochs,
        "folds": folds,
        "seed": seed,
        "variants": variants,
        "classes": words(classes),
        "mixed_precision": bf16,
        "on_error": on_error,
    }
    if per_class is not None:
        settings["per_class"] = per_class
    config = resolve(SurfaceConfig, settings)
    photographs = load_photographs(data, classes=config.classes, on_error=config.on_error)
    run_study(out, config, resume, lambda run: run_surface(run, photographs, config), json_file)
