"""Run a study from the command line: live progress, then its table, its page and its JSON."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from qgraft.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable

    from qgraft.config import TrainingConfig
    from qgraft.studies.run import Run


def run_study(
    out: Path,
    config: TrainingConfig,
    resume: bool,
    body: Callable[[Run], dict[str, Any]],
    json_file: Path | None,
) -> None:
    """Run a study in its directory with live progress, then print its table and write its page."""
    from qgraft.reports.html import write_report
    from qgraft.reports.rundir import read_run
    from qgraft.reports.tables import terminal_table
    from qgraft.studies.run import open_run
    from qgraft.terminal import Meter, console

    settings = {**config.model_dump(mode="json"), "command": typed_command()}
    if json_file is not None and json_file.is_dir():
        raise ConfigError(f"--json {json_file} is a folder; name a file, or - for the screen")
    try:
        with Meter("training") as meter:
            result = body(open_run(out, settings, resume=resume, progress=meter))
    except KeyboardInterrupt:
        typer.echo(f"stopped; {out} goes on with the same command and --resume", err=True)
        raise typer.Exit(130) from None
    # With the JSON on standard output, everything for people goes to the other stream.
    screen = console(stderr=str(json_file) == "-")
    page = write_report(out)
    screen.print(terminal_table(read_run(out).result))
    screen.print(f"report: {page}", soft_wrap=True, highlight=False)
    if json_file is not None:
        write_json_to(json_file, result)


def typed_command() -> str:
    """Return the command as it would be typed again from the start."""
    import shlex

    typed = [word for word in sys.argv[1:] if word != "--resume"]
    return shlex.join(["qgraft", *typed])


def write_json_to(path: Path, value: Any) -> None:
    """Write a value as JSON to a file, or to standard output for `-`."""
    from qgraft.training.checkpoint import write_json

    if str(path) == "-":
        typer.echo(json.dumps(value, indent=2))
    else:
        write_json(path, value)


def words(text: str | None) -> tuple[str, ...] | None:
    """Return the words of a list separated by commas; None and nothing give None."""
    return tuple(word.strip() for word in text.split(",") if word.strip()) if text else None
