"""Put runs side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from qgraft.cli.apps import app
from qgraft.cli.options import JsonOption
from qgraft.cli.study import write_json_to


@app.command(epilog="Example: qgraft compare runs/a runs/b --out runs/a-and-b")
def compare(
    runs: Annotated[
        list[Path], typer.Argument(help="Finished runs of one study; the first is the reference.")
    ],
    out: Annotated[Path | None, typer.Option(help="Folder for a page, tables and figures.")] = None,
    json_file: JsonOption = None,
) -> None:
    """Compare runs row by row: scores, differences with intervals, tests where they are paired."""
    from qgraft.reports.compare import as_json, terminal_comparison, write_comparison
    from qgraft.reports.comparison import compare_runs
    from qgraft.terminal import console

    compared = compare_runs(runs)
    screen = console(stderr=str(json_file) == "-")
    screen.print(terminal_comparison(compared))
    if out is not None:
        page = write_comparison(compared, out)
        screen.print(f"report: {page}", soft_wrap=True, highlight=False)
    if json_file is not None:
        write_json_to(json_file, as_json(compared))
