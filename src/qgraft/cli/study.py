"""Run a study from the command line: live progress, then its table, its page and its JSON."""

from __future__ import annotations

import json
import re
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from qgraft.cli.settings import followed, workers
from qgraft.errors import ConfigError, RunError
from qgraft.training.checkpoint import RecoveryWarning
from qgraft.training.stopping import Stopped

if TYPE_CHECKING:
    from collections.abc import Callable

    from pydantic import BaseModel
    from rich.console import RenderableType

    from qgraft.studies.run import Run


def _two_stage_report(out: Path) -> tuple[Path, RenderableType]:
    from qgraft.reports.html import write_report
    from qgraft.reports.rundir import read_run
    from qgraft.reports.tables import terminal_table

    return write_report(out), terminal_table(read_run(out).result)


def run_study(
    out: Path,
    config: BaseModel,
    resume: bool,
    body: Callable[[Run], dict[str, Any]],
    json_file: Path | None,
    *,
    report: Callable[[Path], tuple[Path, RenderableType]] = _two_stage_report,
) -> None:
    """Run a study in its directory with live progress, then print its table and write its page."""
    from qgraft.reports.trackers import tracked
    from qgraft.studies.parallel import spreading
    from qgraft.studies.run import open_run
    from qgraft.terminal import Meter, console

    settings = {**config.model_dump(mode="json"), "command": typed_command()}
    if json_file is not None and json_file.is_dir():
        raise ConfigError(f"--json {json_file} is a folder; name a file, or - for the screen")
    try:
        shown = tracked(followed(), out, settings, resume=resume)
        spread_over = spreading(*workers())
        with Meter("training") as meter, _warnings_as_notes(), spread_over as spread, shown as show:
            run = open_run(out, settings, resume=resume, progress=meter, spread=spread)
            show(run)
            result = body(run)
    except Stopped:
        typer.echo(f"{out} goes on with the same command and --resume", err=True)
        raise
    except OSError as error:
        raise RunError(
            f"{error.filename or out}: {error.strerror or error}; mend that and go on with the "
            "same command and --resume"
        ) from None
    # With the JSON on standard output, everything for people goes to the other stream.
    screen = console(stderr=str(json_file) == "-")
    page, table = report(out)
    screen.print(table)
    screen.print(f"report: {page}", soft_wrap=True, highlight=False)
    if json_file is not None:
        write_json_to(json_file, result)


@contextmanager
def _warnings_as_notes() -> Iterator[None]:
    """Show what a run recovered from as one line each."""
    with warnings.catch_warnings():
        warnings.simplefilter("always", RecoveryWarning)
        show = warnings.showwarning

        def note(message: Warning | str, category: type[Warning], *place: Any, **more: Any) -> None:
            if issubclass(category, RecoveryWarning):
                typer.echo(f"note: {message}", err=True)
            else:
                show(message, category, *place, **more)

        warnings.showwarning = note
        yield


def typed_command() -> str:
    """Return the command as it would be typed again from the start.

    Who works on a study or follows it decides nothing in it, so that is left out.
    """
    import shlex

    typed = re.sub(r"\0--(resume|(jobs|dask|track)[\0=][^\0]*)(?=\0|$)", "", "\0".join(sys.argv))
    return shlex.join(["qgraft", *typed.split("\0")[1:]])


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
