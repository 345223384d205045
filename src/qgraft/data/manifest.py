"""A CSV list of labelled images in, one `Entry` per row out; every path is checked, none opened.

Columns: `path` and `label`, if wished `group` (images that must stay together) and `split`.
Paths are relative to the folder of the file and may not leave it.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Sequence
from pathlib import Path, PureWindowsPath
from typing import NamedTuple

from qgraft.errors import DataError

MAX_BYTES = 50_000_000
MAX_ROWS = 1_000_000
SPLIT_WORDS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}

# Control characters and bytes that are not UTF-8: they cannot be shown, stored or reported.
UNPRINTABLE = re.compile("[\x00-\x1f\x7f\ud800-\udfff]")

_REQUIRED, _OPTIONAL = ("path", "label"), ("group", "split")


class Entry(NamedTuple):
    """One labelled image: its path relative to the root, and what is said about it."""

    name: str
    label: str
    group: str | None = None
    split: str | None = None


def read_manifest(path: Path) -> list[Entry]:
    """Return the rows of a CSV manifest in file order.

    Raises:
        DataError: the file cannot be read, its columns are not as described, or rows are faulty;
            faulty rows are listed together.
    """
    rows = _rows(path)
    header = [cell.strip().lower() for cell in next(rows, (0, []))[1]]
    _check_header(header, path)
    entries, faults, seen = [], [], set()
    for line, row in rows:
        if len(entries) + len(faults) == MAX_ROWS:
            raise DataError(f"{path} has more than {MAX_ROWS:,} rows; split the data set")
        try:
            if len(row) != len(header):
                raise ValueError(f"{len(row)} cells under {len(header)} columns; quote the commas")
            entry = _entry(dict(zip(header, map(str.strip, row), strict=True)))
            if entry.name in seen:
                raise ValueError(f"{entry.name!r} is listed before; keep one row for each image")
            seen.add(entry.name)
            entries.append(entry)
        except ValueError as fault:
            faults.append(f"line {line}: {fault}")
    if faults:
        raise DataError(f"{path} has {listing(faults, 'faulty row')}")
    return entries


def listing(faults: Sequence[str], noun: str) -> str:
    """Return "12 <noun>s:" and the first ten faults, one a line."""
    shown = "".join(f"\n  {fault}" for fault in faults[:10])
    more = f"\n  and {len(faults) - 10} more" if len(faults) > 10 else ""
    return f"{len(faults)} {noun}{'s' if len(faults) > 1 else ''}:{shown}{more}"


def _rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    try:
        with path.open("rb") as handle:
            data = handle.read(MAX_BYTES + 1)
        if len(data) > MAX_BYTES:
            raise DataError(f"{path} is larger than {MAX_BYTES // 10**6} MB; split the data set")
        reader = csv.reader(io.StringIO(data.decode("utf-8-sig"), newline=""), strict=True)
        yield from ((reader.line_num, row) for row in reader if row)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} is not a readable CSV file in UTF-8 ({error})") from None


def _check_header(header: list[str], path: Path) -> None:
    known = (*_REQUIRED, *_OPTIONAL)
    wrong = [name for name in header if name not in known or header.count(name) > 1]
    missing = [name for name in _REQUIRED if name not in header]
    if wrong or missing:
        raise DataError(
            f"{path} has the columns {header}: "
            + (f"missing {missing}" if missing else f"unknown or repeated {wrong}")
            + "; the first line must name path, label and if wished group, split"
        )


def _entry(row: dict[str, str]) -> Entry:
    for column, cell in row.items():
        if UNPRINTABLE.search(cell):
            raise ValueError(f"{column} {cell!a} has control characters; remove them")
    label, group, split = row["label"], row.get("group"), row.get("split")
    if not label or group == "":
        raise ValueError(f"the {'group' if label else 'label'} is empty; fill it in")
    if split is not None and split.lower() not in SPLIT_WORDS:
        raise ValueError(f"unknown split {split!r}; use train, val or test")
    return Entry(_relative(row["path"]), label, group, split and SPLIT_WORDS[split.lower()])


def _relative(text: str) -> str:
    # Windows' rules know both slashes and drives, so they refuse what either system would.
    path = PureWindowsPath(text)
    if path.drive or path.root or ".." in path.parts or not path.name:
        raise ValueError(f"path {text!r} must be relative and stay inside the manifest's folder")
    return path.as_posix()
