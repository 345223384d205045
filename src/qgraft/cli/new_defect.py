"""The new-defect study: one type left out, then learned from a few examples by the head alone."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from qgraft.cli.apps import reproduce
from qgraft.cli.options import (
    DepthOption,
    EpochsOption,
    HeadEpochsOption,
    JsonOption,
    MixedOption,
    OnErrorOption,
    OutOption,
    QubitsOption,
    ResumeOption,
    SeedOption,
)
from qgraft.cli.settings import configurable, configured
from qgraft.cli.study import run_study, words
from qgraft.errors import ConfigError

if TYPE_CHECKING:
    from rich.table import Table

QUICK: dict[str, Any] = {"epochs": 6, "head_epochs": 15, "shots": (2, 8), "seeds": 3}
QUICK_PER_DEFECT, PER_DEFECT = 24, 80


@reproduce.command(
    "new-defect",
    epilog="Example: qgraft reproduce new-defect --data NEU-DET --leave-out scratches --bf16",
)
@configurable
def new_defect(
    data: Annotated[
        Path | None,
        typer.Option(help="Folder with IMAGES/ and ANNOTATIONS/; embedded steel by default."),
    ] = None,
    trunk: Annotated[str, typer.Option(help="Network: cm1, cm2 or cm3.")] = "cm3",
    weights: Annotated[
        Path | None,
        typer.Option(help="Trained network to use for every type; it must not have seen them."),
    ] = None,
    replace_last: Annotated[str, typer.Option(help="Dense layers to replace: k or all.")] = "all",
    types: Annotated[
        str | None, typer.Option(help="Defect types that take part; the published four by default.")
    ] = None,
    leave_out: Annotated[
        str | None, typer.Option(help="Which of them to leave out in turn; each by default.")
    ] = None,
    heads: Annotated[
        str, typer.Option(help="Heads: dressed, dense (the layers replaced), linear.")
    ] = "dressed,dense",
    shots: Annotated[str, typer.Option(help="Numbers of new examples.")] = "5,10,20,50",
    seeds: Annotated[int, typer.Option(help="Draws of examples and first weights.")] = 5,
    epochs: EpochsOption = 40,
    head_epochs: HeadEpochsOption = 40,
    seed: SeedOption = 0,
    n_qubits: QubitsOption = 5,
    depth: DepthOption = 3,
    bf16: MixedOption = False,
    on_error: OnErrorOption = "fail",
    quick: Annotated[
        bool, typer.Option("--quick", help="A minute's worth: few epochs, examples and seeds.")
    ] = False,
    out: OutOption = Path("runs/new-defect"),
    resume: ResumeOption = False,
    json_file: JsonOption = None,
) -> None:
    """Leave a defect type out, then teach it to the head alone from a few examples.

    The motivation of arXiv 2409.00228: how much of the new type is found, what the old types lose,
    and how long it takes, beside the dense layers that the head replaces.
    """
    from qgraft.config import NewDefectConfig
    from qgraft.data.neu_det import KEPT, load_photographs
    from qgraft.data.synthetic import synthetic_steel
    from qgraft.studies.new_defect import run_new_defect

    settings: dict[str, Any] = {
        "data": str(data) if data else "embedded synthetic steel",
        "trunk": trunk,
        "weights": str(weights) if weights else None,
        "replace_last": int(replace_last) if replace_last.isdecimal() else replace_last,
        "types": words(types) or (None if data else KEPT),
        "leave_out": words(leave_out),
        "heads": words(heads),
        "shots": _numbers(shots),
        "seeds": seeds,
        "epochs": epochs,
        "head_epochs": head_epochs,
        "seed": seed,
        "n_qubits": n_qubits,
        "depth": depth,
        "mixed_precision": bf16,
        "on_error": on_error,
    }
    config = configured(NewDefectConfig, {**settings, **(QUICK if quick else {})})
    if data:
        photographs = load_photographs(
            Path(config.data), classes=config.types, on_error=config.on_error
        )
    else:
        photographs = synthetic_steel(QUICK_PER_DEFECT if quick else PER_DEFECT, seed=config.seed)
    run_study(
        out,
        config,
        resume,
        lambda run: run_new_defect(run, photographs, config),
        json_file,
        report=_report,
    )


def _report(out: Path) -> tuple[Path, Table]:
    from qgraft.reports.new_defect import new_defect_table, read_result, write_new_defect_report

    return write_new_defect_report(out), new_defect_table(read_result(out))


def _numbers(text: str) -> tuple[int, ...]:
    """Read numbers of examples, fewest first.

    Raises:
        ConfigError: a word is not a whole number.
    """
    parts = words(text) or ()
    if not all(part.isdecimal() for part in parts):
        raise ConfigError(f"--shots {text!r}: give whole numbers separated by commas, as 5,10,20")
    return tuple(sorted(map(int, parts)))
