"""Show runs in TensorBoard and in MLflow: settings, learning curves, scores.

Both are optional packages. Neither is needed to run a study or to read its numbers, and what a
tracker does wrong never ends a study.
"""

from __future__ import annotations

import logging
import os
import re
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from qgraft.errors import ConfigError, RunError
from qgraft.reports.series import mean_curve, read_curves, read_result, row_name, score_name
from qgraft.studies.run_index import number
from qgraft.training.checkpoint import RecoveryWarning, read_json

if TYPE_CHECKING:
    from qgraft.studies.run import Run

KINDS = ("tensorboard", "mlflow")
BATCH, LONGEST_VALUE = 900, 500  # metrics in one call of MLflow; characters of a parameter


class Tracker(Protocol):
    """Where a run is shown."""

    def settings(self, values: Mapping[str, Any]) -> None:
        """Show the settings of the run."""

    def epochs(self, name: str, before: int, values: Sequence[Mapping[str, float]]) -> None:
        """Show what was measured after each epoch; `before` epochs came earlier."""

    def scores(self, values: Mapping[str, float]) -> None:
        """Show final scores by name."""

    def close(self) -> None:
        """Write everything that is not written yet."""


def open_tracker(place: str, run: Path, *, study: str, resume: bool = False) -> Tracker:
    """Return a tracker that shows one run.

    Args:
        place: `tensorboard:FOLDER`, or `mlflow:URI` such as `mlflow:sqlite:///ml.db`.
        run: the run directory, after which it is called.
        study: what it is grouped by in MLflow.
        resume: go on where a run of this name is shown already; else a new one is begun.

    Raises:
        ConfigError: the place is of no known kind, cannot be used, or its package is missing.
    """
    kind, _, where = place.partition(":")
    if kind not in KINDS or not where:
        raise ConfigError(
            f"{place!r} is no place to track to; give tensorboard:FOLDER or mlflow:URI, as "
            "tensorboard:runs/board or mlflow:sqlite:///ml.db"
        )
    name = run.resolve().name or "run"
    opened = TensorBoard if kind == "tensorboard" else MLflow
    try:
        return opened(where, name, study, resume)
    except ImportError as error:
        raise ConfigError(
            f"{kind} is not installed ({error.name}); pip install 'qgraft[{kind}]'"
        ) from None
    except Exception as error:  # stores fail in their own ways: no right to write, no server, ...
        raise ConfigError(f"{place} cannot be used: {_first_line(error)}") from None


class TensorBoard:
    """Event files, a folder for each run; `tensorboard --logdir FOLDER` shows them."""

    def __init__(self, where: str, name: str, study: str, resume: bool) -> None:
        with _quietly():
            self._module = import_module("torch.utils.tensorboard")
        self.folder = _own_folder(Path(where), name, resume)
        self.folder.parent.mkdir(parents=True, exist_ok=True)

    @cached_property
    def _writer(self) -> Any:
        return self._module.SummaryWriter(str(self.folder), flush_secs=10)

    def settings(self, values: Mapping[str, Any]) -> None:  # noqa: D102
        lines = [f"    {key} = {value!r}" for key, value in values.items()]
        self._writer.add_text("settings", "\n".join(lines))

    def epochs(  # noqa: D102
        self, name: str, before: int, values: Sequence[Mapping[str, float]]
    ) -> None:
        for step, measured in enumerate(values, start=before + 1):
            for quantity, value in measured.items():
                self._writer.add_scalar(f"{name}/{quantity}", value, step)

    def scores(self, values: Mapping[str, float]) -> None:  # noqa: D102
        for name, value in values.items():
            self._writer.add_scalar(f"scores/{name}", value, 0)
        self._writer.flush()

    def close(self) -> None:  # noqa: D102
        self._writer.close()


def _own_folder(folder: Path, name: str, resume: bool) -> Path:
    """Return `folder/name`, or with a number where that is taken by an earlier run."""
    taken = [folder / name] if (folder / name).exists() else []
    while taken and (following := folder / f"{name}-{len(taken) + 1}").exists():
        taken.append(following)
    if taken and resume:
        return taken[-1]
    return folder / (f"{name}-{len(taken) + 1}" if taken else name)


class MLflow:
    """A run in the experiment of its study."""

    def __init__(self, where: str, name: str, study: str, resume: bool) -> None:
        # Before the import: it would send what is used to its makers.
        os.environ["MLFLOW_DISABLE_TELEMETRY"] = os.environ["DO_NOT_TRACK"] = "true"
        with _quietly():
            tracking = import_module("mlflow.tracking")
            self._entities = import_module("mlflow.entities")
            for logger in ("mlflow", "alembic"):
                logging.getLogger(logger).setLevel(logging.WARNING)
            self._client = tracking.MlflowClient(tracking_uri=where)
            group = f"qgraft {study}"
            found = self._client.get_experiment_by_name(group)
            self._group = found.experiment_id if found else self._client.create_experiment(group)
        self._name, self._resume = name, resume

    @cached_property
    def run_id(self) -> str:
        """The run in MLflow; found again on resume."""
        for run in self._client.search_runs([self._group]) if self._resume else ():
            if run.info.run_name == self._name:
                self._client.update_run(run.info.run_id, "RUNNING")
                return run.info.run_id
        return self._client.create_run(self._group, run_name=self._name).info.run_id

    def settings(self, values: Mapping[str, Any]) -> None:  # noqa: D102
        with _quietly():
            kept = self._client.get_run(self.run_id).data.params
            self._client.log_batch(
                self.run_id,
                params=[
                    self._entities.Param(key, str(value)[:LONGEST_VALUE])
                    for key, value in values.items()
                    if key not in kept
                ],
            )

    def epochs(  # noqa: D102
        self, name: str, before: int, values: Sequence[Mapping[str, float]]
    ) -> None:
        self._log(
            (f"{name}/{quantity}", value, step)
            for step, measured in enumerate(values, start=before + 1)
            for quantity, value in measured.items()
        )

    def scores(self, values: Mapping[str, float]) -> None:  # noqa: D102
        self._log((f"scores/{name}", value, 0) for name, value in values.items())

    def _log(self, measured: Iterator[tuple[str, float, int]]) -> None:
        now = int(1000 * time.time())
        metrics = [
            self._entities.Metric(re.sub(r"[^\w\-. /]", "_", key)[:250], value, now, step)
            for key, value, step in measured
        ]
        with _quietly():
            for start in range(0, len(metrics), BATCH):
                self._client.log_batch(self.run_id, metrics=metrics[start : start + BATCH])

    def close(self) -> None:  # noqa: D102
        with _quietly():
            self._client.set_terminated(self.run_id)


@contextmanager
def _quietly() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextmanager
def tracked(
    place: str | None, folder: Path, settings: Mapping[str, Any], *, resume: bool
) -> Iterator[Callable[[Run], None]]:
    """Give what shows a run while it goes on, from when it is called with it, and its scores.

    A tracker that fails on the way is warned about once and left alone.

    Args:
        place: as in `open_tracker`; None shows nothing.
        folder: the run directory.
        settings: of the run, with its command.
        resume: go on where the run is shown already.
    """
    if place is None:
        yield lambda run: None
        return
    tracker = open_tracker(place, folder, study=str(settings["study"]), resume=resume)
    works = False  # until there is a run to show

    def attempt(action: Callable[..., None], *arguments: Any) -> None:
        nonlocal works
        if works:
            try:
                action(*arguments)
            except Exception as error:
                works = False
                message = f"{place} failed ({_first_line(error)}); the run goes on without it"
                warnings.warn(message, RecoveryWarning, stacklevel=2)

    def show(run: Run) -> None:
        nonlocal works
        works = True
        attempt(tracker.settings, settings)
        run.follow = lambda note, before, records: attempt(
            tracker.epochs, note.replace(", ", "/"), before, list(map(_numbers, records))
        )

    try:
        yield show
        attempt(publish_result, folder, tracker)
    finally:
        attempt(tracker.close)


def _numbers(record: Mapping[str, Any]) -> dict[str, float]:
    return {name: value for name, raw in record.items() if (value := number(raw)) is not None}


def publish(run: Path, tracker: Tracker) -> None:
    """Show a finished run: its settings, its curves as means over folds, its scores.

    Raises:
        RunError: the folder holds no finished run, or a damaged one.
    """
    tracker.settings(run_settings(run))
    publish_result(run, tracker)


def publish_result(run: Path, tracker: Tracker) -> None:
    """Show curves and scores of a finished run."""
    for key, quantities in read_curves(run).items():
        for quantity, repeats in quantities.items():
            values = [{quantity: value} for value in mean_curve(repeats)]
            tracker.epochs(f"curves/{key}", 0, values)
    tracker.scores(_scores(read_result(run)["rows"]))


def run_settings(run: Path) -> dict[str, Any]:
    """Return the settings a run was made with, and the command.

    Raises:
        RunError: they are missing or damaged.
    """
    settings = read_json(run / "config.json")
    if not isinstance(settings, dict):
        raise RunError(f"{run / 'config.json'} is damaged: it holds no settings")
    return settings


def _scores(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    found = {}
    for row in rows:
        name = score_name(row)
        value = number(row.get(f"{name}_mean"))
        if name and value is not None:
            found[f"{row_name(row)}/{name}"] = value
    return found


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300]
