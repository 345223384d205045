"""Find run directories again: one line of facts each, and an index that spares reading them twice.

The directories decide. The index, an SQLite file in the folder that is searched, only remembers
what their files said; each line carries the identity, size and times of those files and counts
for nothing once one of them differs. An index that is lost, damaged or of another version is
written anew, and where none can be written the runs are listed without.
"""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import asdict, dataclass, field
from math import isfinite
from pathlib import Path
from typing import Any, Literal

from qgraft.errors import RunError
from qgraft.studies.lock import is_locked
from qgraft.training.checkpoint import atomic_write, read_regular

INDEX_FILE = ".index.sqlite"
_VERSION = 0x71677266, 1  # "qgrf", so that no other program's file is taken for ours, and format
FACT_FILES = ("config.json", "result.json", "timings.json")
MAX_BYTES = 32_000_000  # of one of them; a long study writes 0.2 million
MAX_INDEX_BYTES = 200_000_000
MAX_DEPTH, MAX_FOLDERS, MAX_TEXT = 8, 50_000, 2000

# What a row may be scored by, in order of preference, and how that is called.
SCORES = {"f1": "F1", "accuracy": "accuracy", "balanced_new": "balanced accuracy on the new type"}

State = Literal["finished", "stopped", "in use"]


@dataclass(frozen=True)
class RunFacts:
    """What a list of runs shows of one.

    Attributes:
        folder: of the run, relative to the folder searched.
        started: seconds since 1970 at which its settings were written.
        score: the best row's, as a fraction; `score_name` says of what.
        seconds: of computing, over all resumes.
        note: what is wrong with its files.
    """

    folder: str
    study: str
    protocol: str
    started: float
    has_result: bool
    score_name: str | None
    score: float | None
    seconds: float
    command: str
    note: str


@dataclass
class Listing:
    """Runs, newest first, with their states, and what was odd on the way."""

    runs: list[tuple[RunFacts, State]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def list_runs(folder: Path, *, study: str | None = None, rebuild: bool = False) -> Listing:
    """Return all runs below `folder`.

    Args:
        folder: where to search; links are not followed.
        study: only runs of this study.
        rebuild: forget the index and read every run anew.

    Raises:
        RunError: there is no such folder.
    """
    if not folder.is_dir():
        raise RunError(f"{folder} is not a folder; name the one that holds the runs, as runs")
    listing = Listing()
    seen = {place: _signature(folder / place) for place in _find(folder, listing.notes)}
    index = folder / INDEX_FILE
    known = {} if rebuild else _recall(index)
    facts = {
        place: known[place][1]
        if place in known and known[place][0] == signature
        else read_facts(folder, place)
        for place, signature in seen.items()
    }
    lines = {place: (seen[place], fact) for place, fact in facts.items()}
    # A run directory holds nothing but its run, so its own list is not kept in it.
    if lines != known and "." not in lines and (lines or index.exists()):
        _remember(index, lines, listing.notes)
    for place, fact in facts.items():
        if fact.note:
            listing.notes.append(f"{folder / place}: {fact.note}")
        if study is None or fact.study == study:
            listing.runs.append((fact, _state(folder / place, fact)))
    listing.runs.sort(key=lambda run: (-run[0].started, run[0].folder))
    return listing


def _find(folder: Path, notes: list[str]) -> Iterator[str]:
    """Yield the folders below `folder` that hold settings; nothing inside a run is searched."""
    waiting, n_seen = [("", 0)], 0
    while waiting:
        place, depth = waiting.pop()
        n_seen += 1
        if n_seen > MAX_FOLDERS:
            notes.append(f"{folder} holds more than {MAX_FOLDERS:,} folders; the rest was left out")
            return
        try:
            entries = sorted(os.scandir(folder / place), key=lambda entry: entry.name)
        except OSError as error:
            notes.append(f"{folder / place} cannot be read: {error.strerror}")
            continue
        if any(entry.name == "config.json" for entry in entries):
            yield place or "."
            continue
        for entry in entries:
            if entry.is_symlink() and entry.is_dir():
                notes.append(f"{entry.path} is a link and was not followed")
            elif depth < MAX_DEPTH and _is_open_folder(entry):
                waiting.append((os.path.join(place, entry.name), depth + 1))


def _is_open_folder(entry: os.DirEntry[str]) -> bool:
    return entry.is_dir(follow_symlinks=False) and not entry.name.startswith(".")


def _signature(run: Path) -> str:
    """Return what tells whether a run's files are still those that were read."""
    parts = []
    for name in FACT_FILES:
        try:
            facts = os.lstat(run / name)
        except OSError:
            parts.append("-")
            continue
        parts.append(f"{facts.st_ino},{facts.st_size},{facts.st_mtime_ns},{facts.st_ctime_ns}")
    return ";".join(parts)


def read_facts(folder: Path, place: str) -> RunFacts:
    """Return the facts of the run in `folder / place`; what cannot be read is noted."""
    run, notes = folder / place, []
    config, result, timings = (_read_object(run / name, notes) for name in FACT_FILES)
    name, score = _best_score(result)
    seconds = sum(filter(None, map(number, timings.values())))
    if config and not isinstance(config.get("study"), str):
        notes.append("config.json names no study: not a run of qgraft")
    try:
        started = os.lstat(run / "config.json").st_mtime
    except OSError:
        started = 0.0
    return RunFacts(
        folder=place,
        study=_text(config.get("study")) or "unknown",
        protocol=_text(config.get("protocol")),
        started=started,
        has_result=bool(result),
        score_name=name,
        score=score,
        seconds=seconds,
        command=_text(config.get("command")),
        note="; ".join(notes),
    )


def _read_object(path: Path, notes: list[str]) -> dict[str, Any]:
    """Return a JSON object; an empty one, and a note, where there is none to be had."""
    try:
        content = read_regular(path, MAX_BYTES, follow_links=False)
        value = json.loads(content)
        if not isinstance(value, dict):
            raise ValueError("no JSON object")
        return value
    except FileNotFoundError:
        return {}
    except OSError as error:
        link = path.is_symlink()
        notes.append(f"{path.name} is {'a link' if link else f'unreadable: {error.strerror}'}")
    except RecursionError:
        notes.append(f"{path.name} is nested too deeply")
    except ValueError as error:
        notes.append(f"{path.name} is damaged: {str(error)[:100]}")
    return {}


def _best_score(result: Mapping[str, Any]) -> tuple[str | None, float | None]:
    """Return by what the rows are scored, and the best score."""
    rows = result.get("rows")
    rows = [row for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []
    for name in SCORES:
        found = [number(row.get(f"{name}_mean")) for row in rows]
        values = [value for value in found if value is not None]
        if values:
            return name, max(values)
    return None, None


def number(value: Any) -> float | None:
    """Return a finite number as such, None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value) if isfinite(value) else None
    except OverflowError:  # a whole number of hundreds of digits
        return None


def _text(value: Any) -> str:
    return value[:MAX_TEXT] if isinstance(value, str) else ""


def _state(run: Path, facts: RunFacts) -> State:
    if is_locked(run):
        return "in use"
    return "finished" if facts.has_result else "stopped"


Lines = dict[str, tuple[str, RunFacts]]  # folder to signature and facts


def _recall(index: Path) -> Lines:
    """Return what the index remembers; nothing where it is lost, damaged or of another version."""
    try:
        content = read_regular(index, MAX_INDEX_BYTES, follow_links=False)
        with closing(sqlite3.connect(":memory:")) as base:
            base.deserialize(content)
            base.execute("PRAGMA trusted_schema = OFF")
            if (_pragma(base, "application_id"), _pragma(base, "user_version")) != _VERSION:
                return {}
            rows = base.execute("SELECT folder, signature, facts, sum FROM runs").fetchall()
        return {
            place: (signature, _facts(place, text))
            for place, signature, text, total in rows
            if total == _sum(place, signature, text)
        }
    except (sqlite3.Error, OSError, ValueError, TypeError, RecursionError, MemoryError):
        return {}


def _remember(index: Path, lines: Lines, notes: list[str]) -> None:
    """Write the index anew, whole or not at all.

    Two processes at once do no harm: the last one wins, and both say what was in the directories.
    """
    try:
        with closing(sqlite3.connect(":memory:")) as base:
            base.execute(f"PRAGMA application_id = {_VERSION[0]}")
            base.execute(f"PRAGMA user_version = {_VERSION[1]}")
            base.execute("CREATE TABLE runs (folder PRIMARY KEY, signature, facts, sum)")
            for place, (signature, facts) in lines.items():
                words = place, signature, json.dumps(asdict(facts))
                base.execute("INSERT INTO runs VALUES (?, ?, ?, ?)", (*words, _sum(*words)))
            base.commit()
            content = base.serialize()
        atomic_write(index, content)
    except OSError as error:
        notes.append(f"{index} cannot be written ({error.strerror}); runs are read anew each time")
    except (sqlite3.Error, ValueError) as error:  # a folder whose name is no text
        notes.append(f"no index is kept: {error}")


def _sum(*words: str) -> str:
    return hashlib.sha256(json.dumps(words).encode()).hexdigest()


def _pragma(base: sqlite3.Connection, name: str) -> Any:
    return base.execute(f"PRAGMA {name}").fetchone()[0]


def _facts(place: str, text: str) -> RunFacts:
    """Return remembered facts.

    Raises:
        ValueError: they are not what this version writes.
    """
    facts = RunFacts(**json.loads(text))
    words = (facts.folder, facts.study, facts.protocol, facts.command, facts.note)
    numbers = (facts.started, facts.seconds, 0.0 if facts.score is None else facts.score)
    plain = all(isinstance(word, str) for word in words) and isinstance(facts.has_result, bool)
    known = facts.score_name in (None, *SCORES)
    if facts.folder != place or not plain or not known or None in map(number, numbers):
        raise ValueError(f"{INDEX_FILE} is damaged")
    return facts
