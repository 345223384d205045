"""The command groups that every module of commands adds to."""

from __future__ import annotations

import typer

app = typer.Typer(
    name="qgraft",
    help="Graft quantum heads onto trained vision networks and score them honestly.",
    epilog="Start here: qgraft demo",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
reproduce = typer.Typer(
    help="Repeat a published study on its data, published values beside ours.",
    epilog="Example: qgraft reproduce surface --data NEU-DET --models cm2 --protocol clean",
    no_args_is_help=True,
)
app.add_typer(reproduce, name="reproduce")
