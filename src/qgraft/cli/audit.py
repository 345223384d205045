"""Say what is wrong with a data set before anybody trains on it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from qgraft.cli.apps import app
from qgraft.cli.options import (
    ClassesOption,
    FoldsOption,
    JsonOption,
    PerClassOption,
    ProtocolOption,
    SeedOption,
)
from qgraft.cli.study import words, write_json_to
from qgraft.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.table import Table

    from qgraft.evaluation.audit import Finding

N_SHOWN = 3
COLOURS = {"high": "bold red", "medium": "yellow", "low": "cyan"}


@app.command(epilog="Example: qgraft audit parts/ --strict --json findings.json")
def audit(
    data: Annotated[
        Path,
        typer.Argument(
            help="Folder with normal/ and anomalous/, with one folder per class, with images "
            "and VOC boxes, or a CSV manifest (path, label, group, split)."
        ),
    ],
    protocol: ProtocolOption = "clean",
    classes: ClassesOption = None,
    per_class: PerClassOption = None,
    folds: FoldsOption = 6,
    seed: SeedOption = 0,
    strict: Annotated[
        bool, typer.Option("--strict", help="Exit with 1 if a finding is of high severity.")
    ] = False,
    json_file: JsonOption = None,
) -> None:
    """Look for leaks, shortcuts, copies, wrong labels and damaged files in a data set."""
    from qgraft.evaluation.audit import Splitting, audit_data
    from qgraft.terminal import Meter, console

    if json_file is not None and json_file.is_dir():
        raise ConfigError(f"--json {json_file} is a folder; name a file, or - for the screen")
    with Meter("auditing") as meter:
        findings = audit_data(
            data,
            Splitting(protocol, folds, seed, per_class),
            classes=words(classes),
            progress=meter,
        )
    # With the JSON on standard output, everything for people goes to the other stream.
    screen = console(stderr=str(json_file) == "-")
    if findings:
        screen.print(findings_table(findings))
    screen.print(_summary(findings))
    if json_file is not None:
        write_json_to(json_file, {"findings": findings})
    if strict and any(finding["severity"] == "high" for finding in findings):
        raise typer.Exit(1)


def findings_table(findings: Sequence[Finding]) -> Table:
    """Return findings as a table; names from files are shown as they are, never as markup."""
    from rich.table import Table
    from rich.text import Text

    table = Table(show_lines=True)
    table.add_column("severity")
    table.add_column("kind", no_wrap=True)
    table.add_column("what was found", ratio=3)
    table.add_column("where", ratio=2, overflow="fold")
    for finding in findings:
        severity, where = finding["severity"], finding["where"]
        more = f"\nand {len(where) - N_SHOWN} more" if len(where) > N_SHOWN else ""
        table.add_row(
            Text(severity, style=COLOURS[severity]),
            finding["kind"],
            Text(finding["message"]),
            Text("\n".join(where[:N_SHOWN]) + more),
        )
    return table


def _summary(findings: Sequence[Finding]) -> str:
    from collections import Counter

    if not findings:
        return "nothing found"
    counts = Counter(finding["severity"] for finding in findings)
    listed = ", ".join(f"{counts[word]} {word}" for word in COLOURS if counts[word])
    return f"{len(findings)} finding{'s' if len(findings) > 1 else ''}: {listed}"
