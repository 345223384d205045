"""Bring weights from elsewhere in."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from qgraft.cli.apps import app


@app.command(
    "convert-weights", epilog="Example: qgraft convert-weights resnet18.pth resnet18.safetensors"
)
def convert_weights(
    source: Annotated[Path, typer.Argument(help="A .pth, .pt or .safetensors file of tensors.")],
    target: Annotated[Path, typer.Argument(help="The .safetensors file to write.")],
) -> None:
    """Convert trained weights to safetensors; a pickle is read in a guarded process of its own."""
    from qgraft.trunks.foreign_weights import convert_weights as convert

    typer.echo(f"{convert(source, target)} tensors written to {target}", err=True)
