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

import torch
from torch import Tensor

from qgraft.circuits.circuit import Circuit
from qgraft.devices.to_qasm import to_qasm
from qgraft.errors import RunError
from qgraft.heads.measured import Run
from qgraft.simulate.sampling import read_words, settings_of
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
        """Wait for a job and return how often each outcome was seen; the bit `c[0]` comes first."""
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


def job_run(
    folder: Path,
    shots: int,
    provider: Provider,
    on_step: Callable[[str], None] = lambda step: None,
) -> Run:
    """Return a function that runs circuits as jobs, for `qgraft.heads.measured.MeasuredHead`.

    Every sample and basis is a job. The records belong to one call: another batch or circuit
    needs another folder.

    Args:
        folder: keeps the records; the same folder goes on.
        shots: measurements of each.
        provider: who runs them.
        on_step: see `run_jobs`.
    """

    def run(circuit: Circuit, angles: Tensor, weights: Tensor) -> Tensor:
        settings = settings_of(circuit) if circuit.observables else ()
        read = [setting.circuit for setting in settings] or [circuit]
        programs = [to_qasm(one, row, weights) for one in read for row in angles]
        counts = run_jobs(folder, programs, shots, provider, on_step)
        n = len(angles)
        tables = [
            _frequencies(counts[k * n : (k + 1) * n], len(one.probabilities or ()), folder)
            for k, one in enumerate(read)
        ]
        if not settings:
            return tables[0].to(angles)
        by_setting = dict(zip(settings, tables, strict=True))
        return read_words(circuit, lambda setting: by_setting[setting]).to(angles)

    return run


def _frequencies(counts: Sequence[Counts], n_bits: int, folder: Path) -> Tensor:
    """Return relative frequencies `(batch, 2**n_bits)`; the first bit is the most significant.

    Raises:
        RunError: an outcome has another number of bits, or nothing was measured.
    """
    table = torch.zeros(len(counts), 2**n_bits, dtype=torch.float64)
    for row, seen in enumerate(counts):
        for bits, count in seen.items():
            if len(bits) != n_bits or set(bits) - {"0", "1"} or count < 0:
                raise RunError(f"the jobs in {folder} have an outcome {bits!r}, not {n_bits} bits")
            table[row, int(bits, 2)] += count
    totals = table.sum(1, keepdim=True)
    if not (totals > 0).all():
        raise RunError(
            f"a job in {folder} has measured nothing; delete its record to send it again"
        )
    return table / totals


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
