"""Units of a study on the workers of a dask cluster, which may share no disk with us.

A unit works in a folder of its own there, and its files come back as bytes. What units share lies
on the cluster once; where a worker dies, dask gives its units to another one.
"""

from __future__ import annotations

import logging
import math
import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import joblib
import torch

from qgraft.errors import ConfigError, RunError
from qgraft.studies.run import Run, Unit
from qgraft.studies.units import (
    IN_FLIGHT,
    Outcome,
    alone,
    begun,
    outcomes,
    quiet_joblib,
    take,
)
from qgraft.training.checkpoint import RecoveryWarning, atomic_write, previous_of

CONNECT_S = 5.0
WORKERS_S = 60.0  # that a cluster may take to start its first worker
KILLED = 4  # workers that a unit may take with it before dask gives it up


@contextmanager
def connected(address: str) -> Iterator[Any]:
    """Connect to a dask scheduler.

    Raises:
        ConfigError: dask is missing, or no scheduler answers there.
        RunError: it has no workers, or they lack qgraft.
    """
    try:
        distributed = import_module("distributed")
    except ImportError:
        raise ConfigError("--dask needs dask: pip install qgraft[dask]") from None
    is_file = address.endswith(".json")
    where: dict[str, Any] = {"scheduler_file": address} if is_file else {"address": address}
    try:
        if is_file and not Path(address).is_file():
            raise OSError("there is no such file")
        with _quiet_dask():
            client = distributed.Client(**where, timeout=CONNECT_S, set_as_default=False)
    except (OSError, ValueError, TypeError, KeyError) as error:
        reason = str(error).split("\n")[0] or type(error).__name__
        raise ConfigError(
            f"no dask scheduler answers at {address!r} ({reason}); give its address as "
            "tcp://host:8786, or its scheduler file"
        ) from None
    try:
        _require_workers(client, address)
        yield client
    finally:
        with _quiet_dask():
            client.close(timeout=CONNECT_S)


def _require_workers(client: Any, address: str) -> None:
    try:
        client.wait_for_workers(1, timeout=WORKERS_S)
    except TimeoutError:
        raise RunError(
            f"the scheduler at {address} has had no worker for {WORKERS_S:g} s"
        ) from None
    try:
        versions = client.run(_versions)
    except Exception as error:  # whatever goes wrong over there
        raise RunError(
            f"the workers of {address} cannot run qgraft ({error!r}); install there what is "
            "installed here"
        ) from None
    for worker, theirs in versions.items():
        if theirs != _versions():
            message = f"{worker} has {theirs}, here is {_versions()}; numbers may differ slightly"
            warnings.warn(message, RecoveryWarning, stacklevel=2)


def _versions() -> str:
    from importlib.metadata import version

    names = ("qgraft", "torch", "numpy")
    capability = torch.backends.cpu.get_cpu_capability()
    return " ".join([*(f"{name} {version(name)}" for name in names), capability])


def spread_far(client: Any, jobs: int, run: Run, units: Iterable[Unit]) -> None:
    """Work on units on the workers of a dask cluster."""
    started = begun(units)
    if started is None:
        return
    n_workers = max(jobs, sum(client.ncores().values()))
    handed = _Handed(client, {})
    leaves: list[tuple[str, ...]] = []

    def calls() -> Iterator[Any]:
        for unit in started:
            leaves.append(unit.leaves)
            kept = {name: data for name in unit.leaves for data in _kept(run.folder / name)}
            shared = [handed.over(value) for value in unit.shared]
            call = unit.function, *shared, *unit.own
            yield joblib.delayed(_far_away)(len(leaves) - 1, unit.leaves, kept, *call)

    with quiet_joblib():
        try:
            with joblib.parallel_config(backend=_backend(client, n_workers)):
                for number, outcome in outcomes(calls(), IN_FLIGHT * n_workers):
                    take(run, outcome, leaves[number])
        except Exception as error:
            if type(error).__name__ == "KilledWorker":
                raise RunError(
                    f"a part of the study killed {KILLED} workers, one after the other (have they "
                    "enough memory?); go on with --resume"
                ) from error
            if client.status == "running":
                raise
            raise RunError(
                "the connection to the dask scheduler was lost; what had come back is kept: go on "
                "with --resume"
            ) from error


def _backend(client: Any, n_workers: int) -> Any:
    """Return joblib's backend for a cluster, mended in two places."""
    backend = import_module("joblib._dask").DaskDistributedBackend(client=client)
    submit = backend.submit

    def submit_and_hear(call: Any, callback: Any = None) -> Any:
        future = submit(call, callback)

        def hear(done: Any) -> None:  # of workers that die joblib would wait for ever
            if done.exception():
                callback(done.exception())

        future.add_done_callback(hear)
        return future

    backend.submit = submit_and_hear
    backend.effective_n_jobs = lambda n_jobs: max(2, n_workers)  # with one it would work here
    return backend


def _kept(path: Path) -> Iterator[bytes]:
    """Give the newest bytes of a file of an earlier run, so that a unit goes on from there."""
    for file in (path, previous_of(path)):
        if file.exists():
            yield file.read_bytes()
            return


@dataclass
class _Handed:
    """What units share lies on the cluster once; lost with a worker, it is handed over again."""

    client: Any
    known: dict[int, tuple[Any, Any]]

    def over(self, value: Any) -> Any:
        """Return the future that stands for a value."""
        if id(value) not in self.known:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message="Sending large graph")
                future = self.client.submit(_same, value, pure=False)
            self.known[id(value)] = future, value  # which keeps the id from being used again
        return self.known[id(value)][0]


def _same(value: Any) -> Any:
    return value


def _far_away(
    number: int,
    leaves: tuple[str, ...],
    kept: dict[str, bytes],
    function: Callable[..., object],
    *arguments: Any,
) -> tuple[int, Outcome]:
    """Work on a unit in a folder that is gone afterwards, and return its files."""
    with alone() as notes, tempfile.TemporaryDirectory() as place:
        run = Run(Path(place), work=math.inf, is_owner=False)
        for name, data in kept.items():
            atomic_write(run.folder / name, data)
        function(run, *arguments)
        files = {name: (run.folder / name).read_bytes() for name in leaves}
        return number, Outcome(files, run.done, run.timings, notes(), None)


@contextmanager
def _quiet_dask() -> Iterator[None]:
    # The second has a level and a handler of its own.
    loggers = [logging.getLogger(name) for name in ("distributed", "distributed.client")]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)
