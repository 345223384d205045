"""The directory of a run: what was asked for, on what, how long it took, how far it is."""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from qgraft.errors import RunError
from qgraft.studies.lock import LOCK_FILE, lock_folder, unlock_folder, unlocked_on_error
from qgraft.training.checkpoint import atomic_write, read_json, write_json
from qgraft.training.loop import EpochRecord

RUN_ENTRIES = frozenset(
    ("config.json", "env.json", "timings.json", "data.json", "result.json", "curves.json",
     "models.json", "predictions.npz", "mistakes.npz", "mistakes.json", "samples.npz",
     "samples.json", "report.html", "tables", "figures", "trunks", "heads", "thresholds.json",
     "SHA256SUMS", LOCK_FILE)
)  # fmt: skip
SUMS_FILE = "SHA256SUMS"
# Made anew from the rest, or different on every machine.
_NOT_SUMMED = frozenset(
    ("report.html", "tables", "figures", "env.json", "timings.json", SUMS_FILE, LOCK_FILE)
)

Progress = Callable[[float, float, str], None]  # (work done, all work, what is being done)


def silent(done: float, total: float, note: str) -> None:
    """Report progress to nobody."""


@dataclass
class Run:
    """One run directory while it is being filled.

    Attributes:
        folder: where everything goes.
        progress: told after every epoch how much of `work` is done.
        work: all the work of this run, in images of the smallest network.
    """

    folder: Path
    progress: Progress = silent
    work: float = 0.0
    done: float = 0.0
    _timings: dict[str, float] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def advance(self, amount: float, note: str) -> None:
        """Count `amount` of work as done; threads may call this at the same time."""
        with self._lock:
            self.done += amount
            self.progress(min(self.done, self.work), self.work, note)

    def each_epoch(self, work: float, note: str) -> Callable[[int, list[EpochRecord]], None]:
        """Return a callback that counts `work` for every epoch of a training."""

        def advance(new: int, history: list[EpochRecord]) -> None:
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
            spent = time.perf_counter() - start
            self._timings[name] = round(self._timings.get(name, 0.0) + spent, 3)
            write_json(self.folder / "timings.json", self._timings)

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
    folder: Path, config: dict[str, Any], *, resume: bool, progress: Progress = silent
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
    return Run(folder, progress, _timings=known)


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
    differing = sorted(key for key in keys if stored.get(key) != config.get(key))
    if differing:
        key = differing[0]
        raise RunError(
            f"{folder} was started with other settings: {key} was {stored.get(key)!r}, now "
            f"{config.get(key)!r} ({len(differing)} differ); use the same, or another --out"
        )


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
    for place in (folder.glob, (folder / "trunks").rglob, (folder / "heads").rglob):
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
