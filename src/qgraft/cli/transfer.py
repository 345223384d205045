"""The transfer schemes on their published examples (arXiv 1912.08278)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from qgraft.cli.apps import reproduce
from qgraft.cli.options import JsonOption, OutOption, ResumeOption, SeedOption
from qgraft.cli.settings import configurable, configured
from qgraft.cli.study import run_study, words
from qgraft.errors import ConfigError

if TYPE_CHECKING:
    from rich.table import Table

    from qgraft.config import ImagePairConfig
    from qgraft.studies.image_pairs import Task

QUICK_TRAINING, QUICK_TEST = 160, 80  # images of each part
QUICK_SOURCE_STEPS, QUICK_STEPS = 20, 100

SeedsOption = Annotated[int, typer.Option(help="Times each model is trained from new weights.")]
QuickOption = Annotated[
    bool, typer.Option("--quick", help="A minute's worth: few seeds, images or steps.")
]
TrunkOption = Annotated[
    Literal["mobilenetv2", "resnet18"], typer.Option(help="Network that gives the features.")
]
WeightsOption = Annotated[
    Path | None,
    typer.Option(help="Its weights, or a folder with them; by default below QGRAFT_DATA."),
]
SideOption = Annotated[int, typer.Option(help="Images are resized to this side.")]
MirrorOption = Annotated[
    bool, typer.Option(help="Average features over the image and its mirror image.")
]


@reproduce.command(epilog="Example: qgraft reproduce spirals --out runs/spirals")
@configurable
def spirals(
    shapes: Annotated[
        str, typer.Option(help="Of spirals-1.52, spirals-2.0, square, moons.")
    ] = "spirals-1.52,spirals-2.0",
    seeds: SeedsOption = 12,
    seed: SeedOption = 55,
    quick: QuickOption = False,
    out: OutOption = Path("runs/spirals"),
    resume: ResumeOption = False,
    json_file: JsonOption = None,
) -> None:
    """Part two spirals by dressed circuits, classical networks of the same size beside them."""
    from qgraft.config import SpiralsConfig
    from qgraft.studies.spirals import run_spirals

    settings: dict[str, Any] = {"shapes": words(shapes) or (), "seeds": seeds, "seed": seed}
    if quick:
        settings |= {"seeds": min(seeds, 2), "epochs": 2}
    config = configured(SpiralsConfig, settings)
    run_study(out, config, resume, lambda run: run_spirals(run, config), json_file, report=_report)


@reproduce.command("ants-bees", epilog="Example: qgraft reproduce ants-bees --data HYMENOPTERA")
@configurable
def ants_bees(
    data: Annotated[Path, typer.Option(help="Folder with train/ and val/, a folder per class.")],
    trunk: TrunkOption = "mobilenetv2",
    weights: WeightsOption = None,
    side: SideOption = 224,
    mirror: MirrorOption = True,
    seeds: SeedsOption = 5,
    seed: SeedOption = 0,
    quick: QuickOption = False,
    out: OutOption = Path("runs/ants-bees"),
    resume: ResumeOption = False,
    json_file: JsonOption = None,
) -> None:
    """Tell ants from bees by a dressed circuit on a frozen network."""
    from qgraft.studies.image_pairs import ants_and_bees

    settings = _settings("ants-bees", data, trunk, weights, side, mirror, seeds, seed)

    def read(config: ImagePairConfig) -> list[Task]:
        return [ants_and_bees(Path(config.data), side=config.side)]

    _run_images(settings, read, quick, out, resume, json_file)


@reproduce.command(epilog="Example: qgraft reproduce cifar --data CIFAR10 --out runs/cifar")
@configurable
def cifar(
    data: Annotated[Path, typer.Option(help="Folder with the pairs as .npz files.")],
    trunk: TrunkOption = "mobilenetv2",
    weights: WeightsOption = None,
    side: SideOption = 128,
    mirror: MirrorOption = True,
    jpeg: Annotated[
        bool, typer.Option(help="Also the test images that carry the marks of JPEG.")
    ] = True,
    seeds: SeedsOption = 5,
    seed: SeedOption = 0,
    quick: QuickOption = False,
    out: OutOption = Path("runs/cifar"),
    resume: ResumeOption = False,
    json_file: JsonOption = None,
) -> None:
    """Tell dogs from cats and planes from cars in CIFAR-10 by a dressed circuit."""
    from qgraft.studies.image_pairs import cifar_tasks

    settings = _settings("cifar", data, trunk, weights, side, mirror, seeds, seed)
    settings["standardise"] = True

    def read(config: ImagePairConfig) -> list[Task]:
        return cifar_tasks(Path(config.data), jpeg=jpeg)

    _run_images(settings, read, quick, out, resume, json_file)


@reproduce.command("photonic-qc", epilog="Example: qgraft reproduce photonic-qc --keep 15,25")
@configurable
def photonic_qc(
    keep: Annotated[str, typer.Option(help="Layers of the 25 to keep.")] = "15",
    source: Annotated[
        Path | None, typer.Option(help="Tetromino network of an earlier run, not trained again.")
    ] = None,
    source_steps: Annotated[int, typer.Option(help="Steps to train it.")] = 5000,
    seeds: SeedsOption = 5,
    seed: SeedOption = 0,
    quick: QuickOption = False,
    out: OutOption = Path("runs/photonic-qc"),
    resume: ResumeOption = False,
    json_file: JsonOption = None,
) -> None:
    """Put a dense layer on a photonic network that learned to draw tetrominoes."""
    settings: dict[str, Any] = {
        "study": "photonic-qc",
        "keep": _numbers("--keep", keep, "15,25"),
        "source": str(source) if source else None,
        "source_steps": QUICK_SOURCE_STEPS if quick else source_steps,
        "steps": (QUICK_STEPS if quick else 1000,),
        "test_batches": QUICK_STEPS if quick else 1000,
        "seeds": min(seeds, 2) if quick else seeds,
        "seed": seed,
    }
    _run_photonic(settings, out, resume, json_file)


@reproduce.command("photonic-qq", epilog="Example: qgraft reproduce photonic-qq --seeds 5")
@configurable
def photonic_qq(
    steps: Annotated[str, typer.Option(help="Training steps of eight states.")] = "500,2000",
    seeds: SeedsOption = 5,
    seed: SeedOption = 0,
    quick: QuickOption = False,
    out: OutOption = Path("runs/photonic-qq"),
    resume: ResumeOption = False,
    json_file: JsonOption = None,
) -> None:
    """Put new photonic layers on one that told Gaussian from non-Gaussian states."""
    settings: dict[str, Any] = {
        "study": "photonic-qq",
        "steps": (QUICK_STEPS,) if quick else _numbers("--steps", steps, "500,2000"),
        "test_batches": QUICK_STEPS if quick else 500,
        "seeds": min(seeds, 2) if quick else seeds,
        "seed": seed,
    }
    _run_photonic(settings, out, resume, json_file)


def _settings(
    study: str,
    data: Path,
    trunk: str,
    weights: Path | None,
    side: int,
    mirror: bool,
    seeds: int,
    seed: int,
) -> dict[str, Any]:
    return {
        "study": study,
        "data": str(data),
        "trunk": trunk,
        "weights": str(weights) if weights else None,
        "side": side,
        "mirror": mirror,
        "seeds": seeds,
        "seed": seed,
    }


def _run_images(
    settings: dict[str, Any],
    read: Callable[[ImagePairConfig], list[Task]],
    quick: bool,
    out: Path,
    resume: bool,
    json_file: Path | None,
) -> None:
    from qgraft.config import ImagePairConfig
    from qgraft.studies.image_pairs import run_image_pairs, smaller
    from qgraft.trunks.registry import require_weights

    if quick:
        settings |= {"seeds": min(settings["seeds"], 2), "head_epochs": 3}
    config: ImagePairConfig = configured(ImagePairConfig, settings)
    require_weights([config.trunk], config.weights)
    tasks = read(config)
    if quick:
        tasks = [smaller(task, QUICK_TRAINING, QUICK_TEST) for task in tasks]
    run_study(
        out, config, resume, lambda run: run_image_pairs(run, tasks, config), json_file,
        report=_report,
    )  # fmt: skip


def _run_photonic(
    settings: dict[str, Any], out: Path, resume: bool, json_file: Path | None
) -> None:
    from qgraft.config import PhotonicConfig
    from qgraft.studies.photonic import run_photonic

    config = configured(PhotonicConfig, settings)
    run_study(out, config, resume, lambda run: run_photonic(run, config), json_file, report=_report)


def _numbers(option: str, text: str, example: str) -> tuple[int, ...]:
    """Read whole numbers separated by commas.

    Raises:
        ConfigError: a word is not a whole number.
    """
    parts = words(text) or ()
    if not all(part.isdecimal() and len(part) < 10 for part in parts):
        raise ConfigError(f"{option} {text!r}: give whole numbers separated by commas, {example}")
    return tuple(map(int, parts))


def _report(out: Path) -> tuple[Path, Table]:
    from qgraft.reports.transfer import read_transfer, transfer_table, write_transfer_report

    return write_transfer_report(out), transfer_table(read_transfer(out))
