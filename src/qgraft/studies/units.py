"""What work on units has in common, wherever it is done: one call of joblib, one unit per process.

Only one unit at a time works in a process, on one core: torch has one random generator for all
threads, and another number of threads would round otherwise. So no number depends on who worked.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import chain
from typing import Any, NamedTuple

import joblib

from qgraft.studies.run import Run, Unit
from qgraft.training.checkpoint import RecoveryWarning, atomic_write
from qgraft.training.one_thread import one_thread

IN_FLIGHT = 3  # units handed out for each worker
_ALONE = threading.Lock()


class Outcome(NamedTuple):
    """What a unit leaves beside its files.

    Attributes:
        files: their bytes by name, where the unit has worked on another disk.
        work: what it has counted as done and nobody has been told of.
        timings: seconds by name.
        warnings: what it has recovered from.
        fault: what it has failed by, where somebody waits for the others to end.
    """

    files: dict[str, bytes]
    work: float
    timings: dict[str, float]
    warnings: tuple[str, ...]
    fault: Exception | None


def begun(units: Iterable[Unit]) -> Iterator[Unit] | None:
    """Make the first unit, which may take time, and return all; None where there is none."""
    units = iter(units)
    first = next(units, None)
    return None if first is None else chain([first], units)


def outcomes(calls: Iterable[Any], in_flight: int) -> Iterator[Any]:
    """Yield outcomes as they come; calls are made one by one, as workers become free."""
    options: dict[str, Any] = {"pre_dispatch": in_flight, "batch_size": 1}
    yield from joblib.Parallel(return_as="generator_unordered", **options)(calls)


def take(run: Run, outcome: Outcome, leaves: tuple[str, ...]) -> None:
    """Add what a unit has left to the run."""
    for name in leaves:
        atomic_write(run.folder / name, outcome.files[name])
    run.add_timings(outcome.timings)
    if outcome.work:
        run.advance_ahead(outcome.work, leaves[0])
    for message in outcome.warnings:
        warnings.warn(message, RecoveryWarning, stacklevel=2)


@contextmanager
def alone() -> Iterator[Callable[[], tuple[str, ...]]]:
    """Work on one unit in this process and on one core.

    Yields:
        What tells what has been recovered from, to be said where a person sees it.
    """
    with _ALONE, one_thread(), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", RecoveryWarning)
        yield lambda: tuple(str(w.message) for w in caught if w.category is RecoveryWarning)


@contextmanager
def quiet_joblib() -> Iterator[None]:
    """Leave out what joblib says about workers it has replaced because they grew."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="A worker stopped while some jobs")
        yield
