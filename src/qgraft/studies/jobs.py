"""Paid jobs that are never paid twice.

Before a job is sent, a tag of its own is on disk; before its result is waited for, its number is.
A run that was killed in between asks the provider for the tag and goes on with the job it finds,
so nothing is ever sent a second time.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

from qgraft.errors import RunError
from qgraft.training.checkpoint import read_json, write_json

Counts = dict[str, int]


class Provider(Protocol):
    """Who runs jobs; `find` must know a job from the moment `submit` has accepted it."""

    def submit(self, tag: str, program: str, shots: int) -> str:
        """Send an OpenQASM 3 program and return the number of the job."""
        ...

    def find(self, tag: str) -> str | None:
        """Return the number of the job with this tag, if it was ever sent."""
        ...

    def fetch(self, job: str) -> Counts:
        """Wait for a job and return how often each outcome was seen, by its bits."""
        ...


def run_jobs(
    folder: Path,
    programs: Sequence[str],
    shots: int,
    provider: Provider,
    on_step: Callable[[str], None] = lambda step: None,
) -> list[Counts]:
    """Run programs, or go on with what an earlier, killed call has sent.

    Args:
        folder: keeps one record per program; the same folder goes on.
        programs: OpenQASM 3.
        shots: measurements of each.
        provider: who runs them.
        on_step: is told "sent" and "done" after each record is on disk.

    Raises:
        RunError: the folder holds records of other programs.
    """
    records = [_record(folder, k, program, shots) for k, program in enumerate(programs)]
    for number, (record, program) in enumerate(zip(records, programs, strict=True)):
        if record["job"] is None:
            known = None if record.pop("new", False) else provider.find(record["tag"])
            record["job"] = known or provider.submit(record["tag"], program, shots)
            write_json(_path(folder, number), record)
            on_step("sent")
    for number, record in enumerate(records):
        if record["counts"] is None:
            record["counts"] = provider.fetch(record["job"])
            write_json(_path(folder, number), record)
            on_step("done")
    return [record["counts"] for record in records]


def _path(folder: Path, number: int) -> Path:
    return folder / f"job-{number:05d}.json"


def _record(folder: Path, number: int, program: str, shots: int) -> dict[str, Any]:
    """Return the record of a program; a new one is on disk before it is returned."""
    path = _path(folder, number)
    digest = hashlib.sha256(program.encode()).hexdigest()
    if path.exists():
        record = read_json(path)
        fields = {"tag", "program", "shots", "job", "counts"}
        if not isinstance(record, dict) or set(record) != fields:
            raise RunError(f"{path} is no record of a job; take another folder")
        if (record["program"], record["shots"]) != (digest, shots):
            raise RunError(
                f"{path} belongs to another program or number of shots; take another folder, or "
                "delete this one if its jobs are not wanted any more"
            )
        return record
    record = {
        "tag": f"qgraft-{secrets.token_hex(16)}",
        "program": digest,
        "shots": shots,
        "job": None,
        "counts": None,
    }
    write_json(path, record)
    return {**record, "new": True}
