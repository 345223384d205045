"""Units of a study in several processes of this machine, by joblib; `cluster` does it elsewhere.

A unit works in the folder of the run itself, so that a kill inside it loses seconds. It tells its
progress through a file, stops when the owner of the run does, and never outlives it.
"""

from __future__ import annotations

import json
import math
import os
import signal
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import BrokenExecutor
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import joblib

from qgraft.errors import ConfigError, RunError
from qgraft.studies.cluster import connected, spread_far
from qgraft.studies.run import Run, Spread, Unit
from qgraft.studies.units import (
    IN_FLIGHT,
    Outcome,
    alone,
    begun,
    outcomes,
    quiet_joblib,
    take,
)
from qgraft.training.one_thread import one_thread
from qgraft.training.stopping import (
    Stopped,
    ask_to_stop,
    stop_asked,
    stop_held_back,
    stop_if_asked,
    stop_on_signals,
)

LOOK_EVERY_S = 0.2


class Desk(NamedTuple):
    """Where units on this machine work.

    Attributes:
        folder: the folder of the run.
        progress: the file they report to.
        stop: the file that asks them to end by being there.
        owner: the process they work for.
    """

    folder: str
    progress: str
    stop: str
    owner: int


@contextmanager
def spreading(jobs: int | None, address: str | None = None) -> Iterator[Spread]:
    """Give what a run takes as `spread`, and let this process compute on one core meanwhile.

    Args:
        jobs: units worked on at the same time, in processes of their own, by default as many as
            there are cores; with an address, how many workers to expect at least.
        address: a dask scheduler, such as `tcp://host:8786`, or its scheduler file.

    Raises:
        ConfigError: fewer than one job, dask is missing, or no scheduler answers there.
    """
    if jobs is not None and jobs < 1:
        raise ConfigError(f"--jobs {jobs}: give 1 or more")
    if jobs is None and address is None:
        jobs = joblib.cpu_count()
    with ExitStack() as stack:
        stack.enter_context(one_thread())
        if address is not None:
            client = stack.enter_context(connected(address))
            yield partial(spread_far, client, jobs or 1)
        else:
            yield partial(_spread_here, jobs or 1)


def _spread_here(jobs: int, run: Run, units: Iterable[Unit]) -> None:
    """Work on units in `jobs` processes; with one job the study itself takes them in turn.

    When one fails, or a signal asks to end, the others store where they stand.
    """
    started = begun(units) if jobs > 1 else None
    if started is None:
        return
    with tempfile.TemporaryDirectory(prefix="qgraft-") as place:
        desk = Desk(str(run.folder.resolve()), f"{place}/progress", f"{place}/stop", os.getpid())
        options: dict[str, Any] = {"initializer": _ignore_interrupts, "mmap_mode": "c"}
        faults: list[Exception] = []
        with stop_held_back(), _relayed(run, desk), quiet_joblib():
            try:
                with joblib.parallel_config(backend="loky", n_jobs=jobs, **options):
                    for outcome in outcomes(_calls(desk, started), IN_FLIGHT * jobs):
                        take(run, outcome, ())
                        if outcome.fault:
                            faults.append(outcome.fault)
                            Path(desk.stop).touch()
            except BrokenExecutor as error:  # a process has died, which joblib says at length
                stop_if_asked()
                raise RunError(
                    "a process that worked on a part of the study was killed (is there enough "
                    f"memory for --jobs {jobs}?); go on with fewer --jobs and --resume"
                ) from error
        stop_if_asked()
        if faults:
            raise faults[0]


def _calls(desk: Desk, units: Iterable[Unit]) -> Iterator[Any]:
    for unit in units:
        if os.path.exists(desk.stop):
            return
        yield joblib.delayed(_at_desk)(desk, unit.function, *unit.shared, *unit.own)


def _at_desk(desk: Desk, function: Callable[..., object], *arguments: Any) -> Outcome:
    """Work on a unit in the folder of the run, in a process that serves it."""
    run = Run(Path(desk.folder), _Teller(desk.progress), work=math.inf, is_owner=False)
    fault = None
    with alone() as notes:
        try:
            with suppress(Stopped), stop_on_signals(), _watching(desk):
                stop_if_asked()
                function(run, *arguments)
        except Exception as error:
            fault = error
        return Outcome({}, 0.0, run.timings, notes(), fault)


@contextmanager
def _watching(desk: Desk) -> Iterator[None]:
    """End with the owner of the folder, who may be killed, and stop when it says so."""
    over = threading.Event()

    def look() -> None:
        if os.path.exists(desk.stop):
            ask_to_stop(signal.SIGTERM)
        if os.getppid() != desk.owner:
            os._exit(1)  # at once: somebody else may go on in this folder

    def watch() -> None:
        while not over.wait(LOOK_EVERY_S):
            look()

    look()
    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


class _Teller:
    """A progress that adds what is new to a file that others add to as well."""

    def __init__(self, path: str) -> None:
        self._path, self._told = path, 0.0

    def __call__(self, done: float, total: float, note: str) -> None:
        line = json.dumps([done - self._told, note]) + "\n"
        self._told = done
        handle = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            os.write(handle, line.encode())
        finally:
            os.close(handle)


@contextmanager
def _relayed(run: Run, desk: Desk) -> Iterator[None]:
    """Show what the units tell, and pass a stop on to them."""
    over, faults = threading.Event(), list[BaseException]()
    rest, place = b"", 0

    def show() -> None:
        nonlocal rest, place
        if not os.path.exists(desk.progress):
            return
        with open(desk.progress, "rb") as file:
            file.seek(place)
            rest += file.read()
            place = file.tell()
        *lines, rest = rest.split(b"\n")
        for line in lines:
            run.advance_ahead(*json.loads(line))

    def relay() -> None:
        try:
            while not over.wait(LOOK_EVERY_S):
                show()
                if stop_asked():
                    Path(desk.stop).touch()
        except BaseException as fault:  # raised again below
            faults.append(fault)
            Path(desk.stop).touch()

    thread = threading.Thread(target=relay, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        if faults:
            raise faults[0]
        show()


def _ignore_interrupts() -> None:
    """Leave Ctrl-C, which a terminal sends to all processes, to the one that owns the run."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
