"""Find runs again, and show them elsewhere."""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from qgraft.cli.apps import app
from qgraft.cli.options import JsonOption
from qgraft.cli.study import write_json_to

if TYPE_CHECKING:
    from rich.console import Console

    from qgraft.studies.run_index import Listing, RunFacts

TITLES = ("run", "study", "protocol", "started", "state", "best score", "took")
RIGHT = ("best score", "took")
SCORE_NAMES = {"f1": "F1", "accuracy": "accuracy", "balanced_new": "balanced"}
STATE_COLOURS = {"finished": "green", "in use": "cyan", "stopped": "yellow"}


@app.command(epilog="Example: qgraft runs --study surface")
def runs(
    folder: Annotated[Path, typer.Argument(help="Folder to search; links are left out.")] = Path(
        "runs"
    ),
    study: Annotated[
        str | None, typer.Option(help="Only runs of this study, as surface or distill.")
    ] = None,
    rebuild: Annotated[
        bool, typer.Option("--rebuild", help="Forget the index and read every run anew.")
    ] = False,
    json_file: JsonOption = None,
) -> None:
    """List the runs below a folder, newest first: study, state, best score, time, command."""
    from qgraft.reports.tables import printable
    from qgraft.studies.run_index import list_runs
    from qgraft.terminal import console

    listing = list_runs(folder, study=study, rebuild=rebuild)
    if str(json_file) != "-":
        screen = console()
        if listing.runs:
            _show(screen, listing)
        else:
            what = f"runs of the study {printable(study)}" if study else "runs"
            screen.print(f"{folder} holds no {what}", markup=False)
    for note in listing.notes:
        typer.echo(f"note: {printable(note)}", err=True)
    if json_file is not None:
        found = [{**asdict(facts), "state": state} for facts, state in listing.runs]
        write_json_to(json_file, {"runs": found, "notes": listing.notes})


@app.command(epilog="Example: qgraft track runs/demo --to tensorboard:runs/board")
def track(
    run: Annotated[Path, typer.Argument(help="Directory of a finished run.")],
    to: Annotated[
        str, typer.Option(metavar="KIND:PLACE", help="tensorboard:FOLDER or mlflow:URI.")
    ],
) -> None:
    """Show a finished run in TensorBoard or MLflow: settings, learning curves, scores."""
    from qgraft.reports.series import read_result
    from qgraft.reports.trackers import open_tracker, publish

    tracker = open_tracker(to, run, study=read_result(run)["study"])
    publish(run, tracker)
    tracker.close()
    typer.echo(f"{run} is shown in {to}")


def _show(screen: Console, listing: Listing) -> None:
    """Print a line of facts for each run and its command below it."""
    from rich.cells import cell_len
    from rich.text import Text

    from qgraft.reports.tables import printable

    lines = [[printable(text) for text in _cells(facts, state)] for facts, state in listing.runs]
    lines = [list(TITLES), *lines]
    widths = [max(map(cell_len, column)) for column in zip(*lines, strict=True)]
    states = ["", *(state for _, state in listing.runs)]
    for number, (cells, state) in enumerate(zip(lines, states, strict=True)):
        line = Text(style="dim" if number == 0 else "")
        for title, cell, width in zip(TITLES, cells, widths, strict=True):
            gap = " " * (width - cell_len(cell))
            cell_text = Text(cell, STATE_COLOURS.get(state, "") if title == "state" else "")
            parts = (gap, cell_text) if title in RIGHT else (cell_text, gap)
            line.append_text(Text.assemble(*parts, "  "))
        screen.print(line, overflow="fold")
        if number:
            command = printable(listing.runs[number - 1][0].command) or "(no command was kept)"
            screen.print(Text(f"  {command}", "dim"), no_wrap=True, overflow="ellipsis")


def _cells(facts: RunFacts, state: str) -> tuple[str, ...]:
    from qgraft.reports.html import duration
    from qgraft.reports.tables import MISSING, percent

    score = MISSING
    if facts.score is not None and facts.score_name:
        score = f"{SCORE_NAMES[facts.score_name]} {percent(facts.score, 1)} %"
    started = time.strftime("%Y-%m-%d %H:%M", time.localtime(facts.started))
    took = duration(facts.seconds) if facts.seconds else MISSING
    return facts.folder, facts.study, facts.protocol or MISSING, started, state, score, took
