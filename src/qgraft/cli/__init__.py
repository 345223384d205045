"""The command line: parse, call, print. Heavy imports wait until a command needs them."""

from __future__ import annotations

from typing import Annotated

import typer

from qgraft.cli import (
    audit,
    compare,
    convert,
    distill,
    features,
    fit,
    hardware,
    measure,
    new_defect,
    qcnn,
    runs,
    surface,
    transfer,
)
from qgraft.cli.apps import app
from qgraft.errors import QgraftError
from qgraft.training.stopping import Stopped, stop_on_signals

__all__ = [
    "app",
    "audit",
    "compare",
    "convert",
    "distill",
    "features",
    "fit",
    "hardware",
    "main",
    "measure",
    "new_defect",
    "qcnn",
    "runs",
    "surface",
    "transfer",
]


def main() -> None:
    """Run the command line; a user's mistake is one line and exit code 2, never a traceback.

    Ctrl-C ends it with exit code 130 and SIGTERM with 143, after the current training step.
    """
    try:
        with stop_on_signals():
            app()
    except Stopped as stop:
        typer.echo("stopped", err=True)
        raise SystemExit(128 + stop.signal) from None
    except QgraftError as error:
        typer.echo(f"error: {error}", err=True)
        raise SystemExit(2) from None
    except OSError as error:
        name = f"{error.filename}: " if error.filename else ""
        typer.echo(f"error: {name}{error.strerror or error}", err=True)
        raise SystemExit(2) from None


@app.callback(invoke_without_command=True)
def version(
    show: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    """Graft quantum heads onto trained vision networks and score them honestly."""
    if show:
        from importlib.metadata import version

        typer.echo(version("qgraft"))
        raise typer.Exit
