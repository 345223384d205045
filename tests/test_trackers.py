"""Runs shown in TensorBoard and MLflow, read back from their own local stores."""

import importlib.util
import os
import socket
import sys
import warnings

import pytest

from qgraft import cli
from qgraft.config import SurfaceConfig
from qgraft.errors import ConfigError, RunError
from qgraft.reports.trackers import open_tracker, publish, tracked
from qgraft.studies.run import open_run
from qgraft.training.checkpoint import RecoveryWarning, write_json

HAS_MLFLOW = importlib.util.find_spec("mlflow") is not None
HISTORY = [
    {"train_loss": 0.7, "train_accuracy": 0.5, "val_accuracy": 0.4},
    {"train_loss": 0.6, "train_accuracy": 0.75},
]
RESULT = {
    "study": "fit",
    "rows": [{"model": "CM-2", "variant": "dressed", "f1_mean": 0.75, "f1_std": 0.1}],
}
CURVES = {"CM-2/dressed": [[{"val_accuracy": 0.25}, {"val_accuracy": 0.5}],
                           [{"val_accuracy": 0.75}]]}  # fmt: skip
SETTINGS = {"study": "fit", "epochs": 2, "models": ["a" * 600], "command": "qgraft fit <b>"}


@pytest.fixture(autouse=True)
def no_socket(monkeypatch):
    """Refuse every connection, also to this machine."""

    def refuse(self, address):
        raise OSError(f"tried to reach {address}")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket.socket, "connect_ex", refuse)


def finish(folder):
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "config.json", SETTINGS)
    write_json(folder / "curves.json", CURVES)
    write_json(folder / "result.json", RESULT)
    return folder


def scalars(folder):
    """Return what TensorBoard itself reads: tag to (step, value) pairs."""
    accumulator = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator"
    ).EventAccumulator
    reader = accumulator(str(folder))
    reader.Reload()
    return {
        tag: [(event.step, round(event.value, 6)) for event in reader.Scalars(tag)]
        for tag in reader.Tags()["scalars"]
    }


def go_through_a_study(place, folder, *, resume=False):
    """Do what a command does: settings, two epochs told one by one, a result."""
    with tracked(place, folder, SETTINGS, resume=resume) as show:
        run = open_run(folder, SETTINGS, resume=resume)
        show(run)
        told = run.each_epoch(1.0, "CM-2 dressed, fold 1")
        told(1, HISTORY[:1])
        told(1, HISTORY)
        finish(folder)


LIVE = {
    "CM-2 dressed/fold 1/train_loss": [(1, 0.7), (2, 0.6)],
    "CM-2 dressed/fold 1/train_accuracy": [(1, 0.5), (2, 0.75)],
    "CM-2 dressed/fold 1/val_accuracy": [(1, 0.4)],
}
FINAL = {
    "curves/CM-2/dressed/val_accuracy": [(1, 0.5), (2, 0.5)],  # the mean over two folds, then one
    "scores/CM-2 dressed/f1": [(0, 0.75)],
}


def test_tensorboard_reads_a_live_run(tmp_path):
    pytest.importorskip("tensorboard")
    go_through_a_study(f"tensorboard:{tmp_path / 'board'}", tmp_path / "run")
    assert scalars(tmp_path / "board" / "run") == {**LIVE, **FINAL}


def test_tensorboard_reads_a_finished_run(tmp_path):
    pytest.importorskip("tensorboard")
    run = finish(tmp_path / "run")
    for _ in range(2):
        tracker = open_tracker(f"tensorboard:{tmp_path / 'board'}", run, study="fit")
        publish(run, tracker)
        tracker.close()
    assert scalars(tmp_path / "board" / "run") == FINAL
    assert scalars(tmp_path / "board" / "run-2") == FINAL


def test_a_resumed_run_goes_on_in_its_folder(tmp_path):
    pytest.importorskip("tensorboard")
    place, run = f"tensorboard:{tmp_path / 'board'}", tmp_path / "run"
    go_through_a_study(place, run)
    go_through_a_study(place, run, resume=True)
    assert [path.name for path in (tmp_path / "board").iterdir()] == ["run"]


def test_epochs_read_from_files_are_shown_at_their_own_steps(tmp_path):
    shown = []
    run = open_run(tmp_path / "run", SETTINGS, resume=False)
    run.follow = lambda note, before, records: shown.append((note, before, records))
    run.each_epoch(1.0, "x")(2, HISTORY)
    run.each_epoch(1.0, "y")(1, HISTORY)
    assert shown == [("x", 0, HISTORY), ("y", 1, HISTORY[1:])]


class Broken:
    """A tracker that fails at its second call."""

    calls = 0

    def settings(self, values):
        Broken.calls += 1

    def epochs(self, *_):
        Broken.calls += 1
        raise OSError("the disk is full\nand more")

    scores = close = settings


def test_a_tracker_that_fails_does_not_end_the_study(tmp_path, monkeypatch):
    monkeypatch.setattr("qgraft.reports.trackers.open_tracker", lambda *_, **__: Broken())
    monkeypatch.setattr(Broken, "calls", 0)
    message = r"tensorboard:x failed \(the disk is full\); the run goes on without it"
    with pytest.warns(RecoveryWarning, match=message) as caught:
        go_through_a_study("tensorboard:x", tmp_path / "run")
    assert len(caught) == 1
    assert Broken.calls == 2


def test_nothing_is_shown_of_a_run_that_does_not_start(tmp_path):
    pytest.importorskip("tensorboard")
    finish(tmp_path / "run")
    with pytest.raises(RunError, match="holds a run already"):
        go_through_a_study(f"tensorboard:{tmp_path / 'board'}", tmp_path / "run")
    assert list((tmp_path / "board").iterdir()) == []


@pytest.mark.parametrize("place", ["", "tensorboard", "tensorboard:", "wandb:x", "board/x"])
def test_other_places_are_refused(tmp_path, place):
    with pytest.raises(ConfigError, match="is no place to track to; give tensorboard:FOLDER"):
        open_tracker(place, tmp_path, study="fit")


@pytest.mark.parametrize("kind", ["tensorboard", "mlflow"])
def test_a_missing_package_is_named(tmp_path, monkeypatch, kind):
    for module in ("torch.utils.tensorboard", "mlflow", "mlflow.tracking"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ConfigError, match=rf"{kind} is not installed.*'qgraft\[{kind}\]'"):
        open_tracker(f"{kind}:{tmp_path / 'x'}", tmp_path, study="fit")


def test_a_folder_that_cannot_be_written_is_refused(tmp_path):
    pytest.importorskip("tensorboard")
    (tmp_path / "file").write_text("x")
    with pytest.raises(ConfigError, match=r"file/board cannot be used: .*Not a directory|exists"):
        open_tracker(f"tensorboard:{tmp_path / 'file' / 'board'}", tmp_path, study="fit")


def call(monkeypatch, capsys, *words):
    monkeypatch.setattr(sys, "argv", ["qgraft", *map(str, words)])
    try:
        cli.main()
        code = 0
    except SystemExit as stop:
        code = stop.code or 0
    printed = capsys.readouterr()
    return code, printed.out, printed.err


def test_the_command_shows_a_finished_run(monkeypatch, capsys, tmp_path):
    pytest.importorskip("tensorboard")
    run, board = finish(tmp_path / "run"), tmp_path / "board"
    code, out, err = call(monkeypatch, capsys, "track", run, "--to", f"tensorboard:{board}")
    assert (code, err) == (0, "")
    assert f"{run} is shown in tensorboard:{board}" in out
    assert scalars(board / "run") == FINAL
    code, _, err = call(monkeypatch, capsys, "track", tmp_path, "--to", f"tensorboard:{board}")
    assert code == 2
    assert "holds no result.json" in err


def test_a_study_is_followed_from_the_command_line(monkeypatch, capsys, tmp_path):
    pytest.importorskip("tensorboard")

    def study(run, config):
        run.each_epoch(1.0, "CM-2 dressed, fold 1")(2, HISTORY)
        finish(run.folder)
        return RESULT

    monkeypatch.setattr("qgraft.studies.demo.run_demo", study)
    monkeypatch.setattr("qgraft.reports.html.write_report", lambda out: out / "report.html")
    monkeypatch.setattr("qgraft.reports.rundir.read_run", lambda out: type("R", (), {"result": {}}))
    monkeypatch.setattr("qgraft.reports.tables.terminal_table", lambda result: "table")
    board, out = tmp_path / "board", tmp_path / "run"
    words = ("demo", "--out", out, "--track", f"tensorboard:{board}")
    code, _, err = call(monkeypatch, capsys, *words)
    assert code == 0, err
    assert scalars(board / "run") == {**LIVE, **FINAL}
    code, _, err = call(monkeypatch, capsys, "demo", "--out", tmp_path / "b", "--track", "nix:x")
    assert code == 2
    assert "is no place to track to" in err
    assert not (tmp_path / "b").exists()


@pytest.mark.skipif(not HAS_MLFLOW, reason="mlflow is not installed")
def test_mlflow_reads_live_finished_and_resumed_runs(tmp_path, monkeypatch):
    for name in ("MLFLOW_DISABLE_TELEMETRY", "DO_NOT_TRACK"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    place, folder = f"mlflow:sqlite:///{tmp_path / 'ml.db'}", tmp_path / "run"
    go_through_a_study(place, folder)
    assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == os.environ["DO_NOT_TRACK"] == "true"
    go_through_a_study(place, folder, resume=True)
    tracker = open_tracker(place, folder, study="fit")
    publish(folder, tracker)
    tracker.close()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from mlflow.tracking import MlflowClient

        client = MlflowClient(tracking_uri=place.removeprefix("mlflow:"))
        group = client.get_experiment_by_name("qgraft fit").experiment_id
        runs = sorted(client.search_runs([group]), key=lambda run: run.info.start_time)
    assert [run.info.run_name for run in runs] == ["run", "run"]  # resuming began none
    assert {run.info.status for run in runs} == {"FINISHED"}
    assert runs[0].data.params["epochs"] == "2"
    assert len(runs[0].data.params["models"]) == 500
    for (tag, points), run in [(item, runs[0]) for item in LIVE.items()] + [
        (item, runs[1]) for item in FINAL.items()
    ]:
        history = client.get_metric_history(run.info.run_id, tag)
        assert {(metric.step, round(metric.value, 6)) for metric in history} == set(points)


def test_settings_of_a_study_can_be_shown(tmp_path):
    pytest.importorskip("tensorboard")
    config = SurfaceConfig(data="x").model_dump(mode="json")
    tracker = open_tracker(f"tensorboard:{tmp_path}", tmp_path / "run", study="surface")
    tracker.settings(config)
    tracker.close()
    events = b"".join(path.read_bytes() for path in (tmp_path / "run").iterdir())
    assert b"head_learning_rate = 0.0008" in events
