"""Counts and times: the parameter table and the benchmark."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from qgraft.cli.apps import app
from qgraft.cli.options import (
    JsonOption,
)
from qgraft.cli.study import words, write_json_to


@app.command(epilog="Example: qgraft params --json -")
def params(
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write as JSON here; - for standard output.")
    ] = None,
) -> None:
    """Print the parameter table of arXiv 2409.00228 beside counts of the real networks."""
    from qgraft.reports.tables import parameter_table
    from qgraft.studies.published import parameter_rows
    from qgraft.terminal import console

    rows = parameter_rows()
    if json_file is None:
        console().print(parameter_table(rows))
    else:
        write_json_to(json_file, rows)


@app.command(epilog="Example: qgraft bench --only A,B --threads 1 --json bench.json")
def bench(
    only: Annotated[
        str, typer.Option(help="Workloads: A, A-wide, many, narrow, B, C, C-large, single, trunk.")
    ] = "A,A-wide,many,B,C",
    threads: Annotated[int, typer.Option(help="Threads of torch and of the kernels.")] = 1,
    seconds: Annotated[float, typer.Option(help="Time for each workload.")] = 5.0,
    json_file: JsonOption = None,
) -> None:
    """Time training steps beside every peer that is installed, in one run."""
    import warnings

    from rich.table import Table

    from qgraft.bench.run import run_bench
    from qgraft.studies.run import environment
    from qgraft.terminal import console

    warnings.simplefilter("ignore")  # peers warn about what they will change one day
    timings = run_bench(
        words(only) or (),
        threads=threads,
        seconds=seconds,
        on_skip=lambda line: typer.echo(line, err=True),
        on_timing=lambda t: typer.echo(
            f"{t.workload}: {t.contestant} {t.milliseconds} ms", err=True
        ),
    )
    table = Table(caption="Median time of one training step; ratio to the first of its workload.")
    for title in ("workload", "contestant", "ms", "ratio"):
        table.add_column(title, justify="right" if title in ("ms", "ratio") else "left")
    before = ""
    for timing in timings:
        title = timing.workload if timing.workload != before else ""
        before = timing.workload
        numbers = (f"{timing.milliseconds:.3f}", f"{timing.ratio:.2f}")
        table.add_row(title, timing.contestant, *numbers)
    console().print(table)
    if json_file is not None:
        rows = [timing._asdict() for timing in timings]
        write_json_to(json_file, {"rows": rows, "environment": environment()})
