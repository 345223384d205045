"""The study of transfer to quantum convolutional networks."""

from __future__ import annotations

import re
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

QUICK: dict[str, Any] = {"ansatz": ("ttn", "su4"), "seeds": 3, "steps": 100, "trunk_epochs": 6}


@reproduce.command(
    epilog="Example: qgraft reproduce qcnn --data DATA --ansatz su4 --pairs 0-1,8-9 --jobs 2"
)
@configurable
def qcnn(
    data: Annotated[
        Path | None, typer.Option(help="Folder with mnist/ and fashion-mnist/, four files each.")
    ] = None,
    ansatz: Annotated[
        str | None, typer.Option(help="Convolution blocks, separated by commas; all by default.")
    ] = None,
    pooling: Annotated[
        str, typer.Option(help="Pooling blocks: zx, generalised, trivial.")
    ] = "zx,generalised,trivial",
    all_combinations: Annotated[
        bool, typer.Option("--all-combinations", help="Also combinations nobody published.")
    ] = False,
    pairs: Annotated[str, typer.Option(help="Pairs of digits.")] = "0-1,2-3,8-9",
    seeds: Annotated[int, typer.Option(help="Heads of each model on each pair.")] = 10,
    embedding: Annotated[
        str,
        typer.Option(
            help="amplitude, angle, compact-angle, or hybrid-direct-4-1 to hybrid-angle-2-4."
        ),
    ] = "amplitude",
    inputs: Annotated[
        Literal["transfer", "pca", "autoencoder"],
        typer.Option(help="Features of a trained network, or of the pixels alone."),
    ] = "transfer",
    target: Annotated[
        Literal["mnist", "fashion-mnist"], typer.Option(help="Data set the pairs are from.")
    ] = "mnist",
    steps: Annotated[int, typer.Option(help="Training steps of a head.")] = 200,
    batch_size: Annotated[int, typer.Option(help="Images in a step.")] = 50,
    learning_rate: Annotated[float, typer.Option(help="Learning rate of the networks.")] = 0.01,
    optimiser: Annotated[
        Literal["adam", "nesterov", "lbfgs", "spsa"], typer.Option(help="How a step is taken.")
    ] = "adam",
    cost: Annotated[
        Literal["cross-entropy", "mse"], typer.Option(help="What a step lowers.")
    ] = "cross-entropy",
    controls: Annotated[
        bool, typer.Option(help="Train classical heads on the same features.")
    ] = True,
    trunk_epochs: Annotated[int, typer.Option(help="Epochs of the source network.")] = 5,
    trunks: Annotated[
        Path | None, typer.Option(help="Folder trunks/ of an earlier run, not trained again.")
    ] = None,
    seed: SeedOption = 0,
    quick: Annotated[
        bool, typer.Option("--quick", help="Few seeds on embedded small digits; needs no data.")
    ] = False,
    out: OutOption = Path("runs/qcnn"),
    resume: ResumeOption = False,
    json_file: JsonOption = None,
) -> None:
    """Repeat the transfer from Fashion-MNIST to quantum convolutional networks (2208.14708)."""
    from qgraft.circuits.blocks import CONVOLUTIONS
    from qgraft.config import QcnnConfig
    from qgraft.data.digits import embedded_transfer_data, read_transfer_data
    from qgraft.studies.qcnn import models_of, run_qcnn

    if (data is None) != quick:
        raise ConfigError(
            "give either --data with the folder of MNIST and Fashion-MNIST, or --quick for the "
            "small embedded digits"
        )
    settings: dict[str, Any] = {
        "data": "embedded" if data is None else str(data),
        "ansatz": words(ansatz) or tuple(CONVOLUTIONS),
        "pooling": words(pooling),
        "published_only": not all_combinations,
        "pairs": _pairs(pairs),
        "seeds": seeds,
        "embedding": embedding,
        "inputs": inputs,
        "target": target,
        "steps": steps,
        "batch_size": batch_size,
        "learning_rate": learning_rate,
        "optimiser": optimiser,
        "cost": cost,
        "controls": controls,
        "trunk_epochs": trunk_epochs,
        "trunks": str(trunks) if trunks else None,
        "seed": seed,
    }
    if quick:
        settings |= {key: value for key, value in QUICK.items() if key != "ansatz" or not ansatz}
    config = configured(QcnnConfig, settings)
    models_of(config)
    images = (
        read_transfer_data(Path(config.data), config.target) if data else embedded_transfer_data()
    )
    run_study(
        out,
        config,
        resume,
        lambda run: run_qcnn(run, images, config),
        json_file,
        report=_report,
    )


def _report(out: Path) -> tuple[Path, Table]:
    from qgraft.reports.qcnn import qcnn_table, read_qcnn, write_qcnn_report

    return write_qcnn_report(out), qcnn_table(read_qcnn(out))


def _pairs(text: str) -> tuple[tuple[int, int], ...]:
    """Read pairs such as 0-1,2-3.

    Raises:
        ConfigError: a word is not a pair of digits.
    """
    parts = words(text) or ()
    found = [re.fullmatch(r"([0-9])-([0-9])", part) for part in parts]
    if not parts or not all(found):
        raise ConfigError(f"--pairs {text!r}: give pairs of digits separated by commas, as 0-1,2-3")
    return tuple((int(match[1]), int(match[2])) for match in found if match)
