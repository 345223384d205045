"""The directory of a run: what was asked for, on what, how long it took, how far it is."""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from qgraft.errors import RunError
from qgraft.studies.lock import LOCK_FILE, lock_folder, unlock_folder, unlocked_on_error
from qgraft.training.checkpoint import atomic_write, read_json, write_json
from qgraft.training.kept import EpochRecord

RUN_ENTRIES = frozenset(
    ("config.json", "env.json", "timings.json", "data.json", "result.json", "curves.json",
     "models.json", "predictions.npz", "mistakes.npz", "mistakes.json", "samples.npz",
     "samples.json", "report.html", "tables", "figures", "trunks", "heads", "thresholds.json",
     "SHA256SUMS", "features", "manifest.json", LOCK_FILE)
)  # fmt: skip
SUMS_FILE = "SHA256SUMS"
UNIT_FOLDERS = ("trunks", "heads", "features")
# Made anew from the rest, or different on every machine.
_NOT_SUMMED = frozenset(
    ("report.html", "tables", "figures", "env.json", "timings.json", SUMS_FILE, LOCK_FILE)
)
Progress = Callable[[float, float, str], None]  # (work done, all work, what is being done)


def silent(done: float, total: float, note: str) -> None:
    """Report progress to nobody."""


# (what is trained, epochs before these, their records)
Follow = Callable[[str, int, list[EpochRecord]], None]


def unfollowed(note: str, before: int, records: list[EpochRecord]) -> None:
    """Show records of epochs to nobody."""


class Unit(NamedTuple):
    """A part of a study that depends on no other part and leaves files.

    The study itself finds these files afterwards as if an earlier run had left them.

    Attributes:
        function: a function of a module, called as `function(run, *shared, *own)`.
        shared: its first arguments, those that other cells take as well.
        own: the others.
        leaves: the files it writes, as paths below the folder of the run.
    """

    function: Callable[..., object]
    shared: tuple[Any, ...]
    own: tuple[Any, ...]
    leaves: tuple[str, ...]


# Works on units; see `qgraft.studies.parallel`.
Spread = Callable[["Run", Iterable[Unit]], None]


def in_turn(run: Run, units: Iterable[Unit]) -> None:
    """Leave all units to the study itself, which takes one after the other."""


@dataclass
class Run:
    """One run directory while it is being filled.

    Attributes:
        folder: where everything goes.
        progress: told after every epoch how much of `work` is done.
        work: all the work of this run, in images of the smallest network.
        spread: has units worked on at the same time.
        follow: shown the records of every epoch.
        is_owner: False for a unit at work elsewhere, whose timings go to the owner of the folder.
    """

    folder: Path
    progress: Progress = silent
    work: float = 0.0
    done: float = 0.0
    spread: Spread = in_turn
    follow: Follow = unfollowed
    is_owner: bool = True
    _ahead: float = 0.0
    _timings: dict[str, float] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def advance(self, amount: float, note: str) -> None:
        """Count `amount` of work as done; threads may call this at the same time."""
        with self._lock:
            known = min(amount, self._ahead)
            self._ahead -= known
            self._count(amount - known, note)

    def advance_ahead(self, amount: float, note: str) -> None:
        """Count work of a unit as done, and not again when the study takes its files up."""
        with self._lock:
            self._ahead += amount
            self._count(amount, note)

    def _count(self, amount: float, note: str) -> None:
        self.done += amount
        self.progress(min(self.done, self.work), self.work, note)

    def each_epoch(self, work: float, note: str) -> Callable[[int, list[EpochRecord]], None]:
        """Return a callback that counts `work` for every epoch of a training."""

        def advance(new: int, history: list[EpochRecord]) -> None:
            before = max(len(history) - new, 0)
            self.follow(note, before, history[before:])
            accuracy = history[-1].get("val_accuracy", history[-1]["train_accuracy"])
            self.advance(
                work * new, f"{note}, epoch {len(history)}, accuracy {100 * accuracy:.1f} %"
            )

        return advance

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Add the seconds of the block to the timing `name`, kept across resumes."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.add_timings({name: time.perf_counter() - start})

    def add_timings(self, seconds: dict[str, float]) -> None:
        """Add seconds to timings of these names."""
        with self._lock:
            for name, spent in seconds.items():
                self._timings[name] = round(self._timings.get(name, 0.0) + spent, 3)
            if self.is_owner:
                write_json(self.folder / "timings.json", self._timings)

    @property
    def timings(self) -> dict[str, float]:
        """Return seconds by name."""
        return dict(self._timings)

    def finish(self) -> None:
        """Drop what only a resume needs, write `SHA256SUMS` and release the folder.

        The sums are checked by `sha256sum --check SHA256SUMS` inside the folder.
        """
        for ending in (".part", ".previous", ".damaged"):
            _sweep(self.folder, ending)
        lines = [
            f"{hashlib.sha256(path.read_bytes()).hexdigest()}  "
            f"{path.relative_to(self.folder).as_posix()}\n"
            for entry in sorted(RUN_ENTRIES - _NOT_SUMMED)
            for path in (self.folder / entry, *sorted((self.folder / entry).rglob("*")))
            if path.is_file()
        ]
        atomic_write(self.folder / SUMS_FILE, "".join(lines))
        unlock_folder(self.folder)


def keep_data(folder: Path, data: dict[str, Any]) -> None:
    """Write what a run was made from, or check that a resumed run is given the same.

    Raises:
        RunError: the images or their splits are not those the run was started with.
    """
    path = folder / "data.json"
    if path.exists():
        stored = _read_object(path)
        if any(stored.get(key) != data[key] for key in ("digest", "splits")):
            raise RunError(
                f"the images or their splits changed since {folder} was started; a resumed run "
                "would mix them: choose another --out"
            )
    write_json(path, data)


def open_run(
    folder: Path,
    config: dict[str, Any],
    *,
    resume: bool,
    progress: Progress = silent,
    spread: Spread = in_turn,
) -> Run:
    """Start a run in `folder`, or go on with the one that is there.

    Raises:
        RunError: the folder holds a run and `resume` is not set, a run of other settings, or is
            in use by another process.
    """
    if folder.exists() and not folder.is_dir():
        raise RunError(f"{folder} is a file; --out must name a folder")
    _make_folder(folder)
    with unlocked_on_error(folder):
        _sweep(folder, ".part")
        _start_or_resume(folder, config, resume)
        write_json(folder / "env.json", environment())
        timings = folder / "timings.json"
        known = _read_object(timings) if timings.exists() else {}
    return Run(folder, progress, spread=spread, _timings=known)


def _start_or_resume(folder: Path, config: dict[str, Any], resume: bool) -> None:
    settings = folder / "config.json"
    if not settings.exists():
        write_json(settings, config)
        return
    if not resume:
        raise RunError(
            f"{folder} holds a run already; go on with it by --resume, or choose another --out"
        )
    stored = _read_object(settings)
    keys = ({**stored, **config}).keys() - {"command"}  # how it was typed does not matter
    differing = sorted(key for key in keys if not _is_same(key, stored.get(key), config.get(key)))
    if differing:
        key = differing[0]
        raise RunError(
            f"{folder} was started with other settings: {key} was {stored.get(key)!r}, now "
            f"{config.get(key)!r} ({len(differing)} differ); use the same, or another --out"
        )


def _is_same(key: str, stored: Any, given: Any) -> bool:
    """Compare a setting; one folder of images has many names."""
    if key == "data" and isinstance(stored, str) and isinstance(given, str):
        return Path(stored).resolve() == Path(given).resolve()
    return stored == given


def _read_object(path: Path) -> dict[str, Any]:
    """Return the JSON object in `path`.

    Raises:
        RunError: it holds something else.
    """
    value = read_json(path)
    if not isinstance(value, dict):
        raise RunError(f"{path} was not written by a run; choose another --out")
    return value


def _sweep(folder: Path, ending: str) -> None:
    """Delete the hidden files with this ending where a run writes; --out may hold other things."""
    for place in (folder.glob, *((folder / part).rglob for part in UNIT_FOLDERS)):
        for stray in place(f".*{ending}"):
            stray.unlink(missing_ok=True)


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except ValueError as error:  # a NUL in the name
        raise RunError(
            f"{str(folder)!r} cannot be a folder ({error}); choose another --out"
        ) from None


def remove_run(folder: Path) -> None:
    """Delete a run directory; a folder that holds anything else is left alone.

    Raises:
        RunError: the folder exists and holds something that no run of qgraft writes, or is in
            use by another process.
    """
    if not folder.exists():
        return
    if not folder.is_dir():
        raise RunError(f"{folder} is a file; --out must name a folder")
    parts = {path.name for path in folder.glob(".*.part")}
    strange = sorted({path.name for path in folder.iterdir()} - RUN_ENTRIES - parts)
    if strange:
        raise RunError(
            f"{folder} holds {strange[0]!r}, which is not part of a run; choose another --out"
        )
    lock_folder(folder)
    shutil.rmtree(folder)
    unlock_folder(folder)


def environment() -> dict[str, Any]:
    """Return the versions and the machine a run was made with."""
    from importlib.metadata import version

    import torch

    packages = ("qgraft", "torch", "numpy", "pillow", "scikit-learn", "scipy")
    return {
        "python": platform.python_version(),
        **{name: version(name) for name in packages},
        "system": f"{platform.system()} {platform.machine()}",
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
    }
