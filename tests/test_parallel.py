"""Units of work in other processes: the same files, sums and numbers as one after the other."""

import json
import os
import signal
import subprocess
import sys
import time
import warnings

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from qgraft.cli import app, study
from qgraft.config import PhotonicConfig, QcnnConfig, SpiralsConfig, SurfaceConfig, resolve
from qgraft.data.digits import embedded_transfer_data
from qgraft.data.imageset import ImageSet
from qgraft.data.splits import Splits
from qgraft.errors import ConfigError, RunError
from qgraft.studies.hybrid import Hybrid
from qgraft.studies.parallel import spreading
from qgraft.studies.photonic import run_photonic
from qgraft.studies.qcnn import run_qcnn
from qgraft.studies.run import SUMS_FILE, Run, Unit, open_run
from qgraft.studies.spirals import run_spirals
from qgraft.studies.two_stage import Plan, run_two_stage
from qgraft.training.checkpoint import RecoveryWarning, atomic_write
from qgraft.training.stopping import Stopped, stop_if_asked, stop_on_signals

SURFACE = resolve(
    SurfaceConfig,
    {"data": "x", "models": ("cm3",), "inits": 2, "epochs": 1, "head_epochs": 2, "folds": 2,
     "batch_size": 8, "n_qubits": 2, "depth": 1, "head_seeds": 2},
)  # fmt: skip
QCNN = resolve(
    QcnnConfig,
    {"data": "embedded", "ansatz": ("ttn", "su4"), "pooling": ("generalised",), "pairs": ((0, 1),),
     "seeds": 2, "steps": 3, "trunk_epochs": 1},
)  # fmt: skip
SPIRALS = resolve(SpiralsConfig, {"shapes": ("moons",), "seeds": 2, "epochs": 1})
PHOTONIC = {"steps": (4, 8), "test_batches": 4, "source_steps": 2, "keep": (0, 1, 2), "seeds": 2}
PHOTONIC_QC = resolve(PhotonicConfig, {"study": "photonic-qc", **PHOTONIC})
PHOTONIC_QQ = resolve(PhotonicConfig, {"study": "photonic-qq", **PHOTONIC})


def two_stage(run, on_weights=None):
    """A small study on dark and bright noise with every kind of unit."""
    rng = np.random.default_rng(2)
    labels = np.arange(20) % 2
    pixels = (rng.normal(110, 30, (20, 200, 200)) + 40 * labels[:, None, None]).clip(0, 255)
    names = tuple(f"{i}.png" for i in range(20))
    images = ImageSet(pixels.astype(np.uint8), labels, np.arange(20), names)
    order = rng.permutation(20)
    splits = Splits(order[8:], order[4:8], order[:4], tuple(np.array_split(order[4:], 2)))
    plan = Plan("CM-3", "cm3", (Hybrid("QTL-M-1", 2), Hybrid("dense", 1, "dense")))
    return run_two_stage(run, images, splits, [plan], SURFACE, notes=["a note"])


def qcnn(run):
    return run_qcnn(run, embedded_transfer_data(), QCNN)


def spirals(run):
    return run_spirals(run, SPIRALS)


def photonic_qc(run):
    return run_photonic(run, PHOTONIC_QC)


def photonic_qq(run):
    return run_photonic(run, PHOTONIC_QQ)


STUDIES = {
    "surface": (two_stage, SURFACE),
    "qcnn": (qcnn, QCNN),
    "spirals": (spirals, SPIRALS),
    "photonic-qc": (photonic_qc, PHOTONIC_QC),
    "photonic-qq": (photonic_qq, PHOTONIC_QQ),
}


def run_study(name, folder, jobs=None, address=None, progress=lambda *state: None):
    """Run or resume a study and return its sums."""
    body, config = STUDIES[name]
    settings = config.model_dump(mode="json")
    resume = (folder / "config.json").exists()
    with spreading(jobs, address) as spread:
        body(open_run(folder, settings, resume=resume, progress=progress, spread=spread))
    return (folder / SUMS_FILE).read_text()


@pytest.mark.parametrize("name", STUDIES)
def test_any_number_of_jobs_gives_the_same_sums(name, tmp_path):
    seen = []
    alone = run_study(name, tmp_path / "alone", 1)
    together = run_study(name, tmp_path / "together", 2, progress=lambda *s: seen.append(s))
    assert together == alone
    assert alone.count("heads/") >= 5
    done = [state[0] for state in seen]
    assert done == sorted(done), "progress of all units in one place, counted once"
    assert done[-1] == pytest.approx(seen[-1][1])
    timings = [
        json.loads((tmp_path / f / "timings.json").read_text()) for f in ("alone", "together")
    ]
    assert timings[0].keys() <= timings[1].keys()
    assert not list((tmp_path / "together").rglob(".*.part"))


@pytest.mark.parametrize("name", ["spirals", "photonic-qc", "photonic-qq"])
def test_what_is_there_is_not_made_again_and_counted_once(name, tmp_path):
    sums = run_study(name, tmp_path, 1)
    heads = sorted((tmp_path / "heads").glob("*-*.safetensors"))
    before = {path: path.stat().st_mtime_ns for path in heads}
    heads[1].unlink()
    body, config = STUDIES[name]
    with spreading(2) as spread:
        run = open_run(tmp_path, config.model_dump(mode="json"), resume=True, spread=spread)
        body(run)
    assert (tmp_path / SUMS_FILE).read_text() == sums
    assert [path for path in heads if path.stat().st_mtime_ns != before[path]] == [heads[1]]
    assert run.done == pytest.approx(run.work)


def steps(run, shared, number, seconds):
    """Be a unit that takes ten steps, keeps each, and can be stopped between them."""
    path = run.folder / "heads" / f"{number}.txt"
    done = len(path.read_text()) if path.exists() else 0
    for _ in range(done, 10):
        done += 1
        atomic_write(path, "x" * done)
        run.advance(1.0, f"unit {number}, step {done}")
        time.sleep(seconds)
        stop_if_asked()
    assert torch.get_num_threads() == 1
    assert shared.sum() == 100_000


def failing(run, kind):
    if kind == "error":
        raise RunError("the loss became nan")
    if kind == "bug":
        raise RuntimeError("a bug")
    if kind == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if kind == "warn":
        warnings.warn("went on from the one before", RecoveryWarning, stacklevel=1)


SHARED = np.ones(100_000)


def units(n, seconds=0.0):
    return [Unit(steps, (SHARED,), (k, seconds), (f"heads/{k}.txt",)) for k in range(n)]


def test_a_unit_says_what_it_recovered_from_and_fails_as_it_would_here(tmp_path):
    with spreading(2) as spread:
        run = Run(tmp_path, work=1.0)
        with pytest.warns(RecoveryWarning, match="went on from"):
            spread(run, [Unit(failing, (), ("warn",), ())])
        with pytest.raises(RunError, match="the loss became nan"):
            spread(run, [Unit(failing, (), ("error",), ())])
        with pytest.raises(RuntimeError, match="a bug"):
            spread(run, [Unit(failing, (), ("bug",), ())])


def test_a_progress_that_fails_stops_the_units(tmp_path):
    def fail(*state):
        raise ValueError("no screen")

    with spreading(2) as spread, pytest.raises(ValueError, match="no screen"):
        spread(Run(tmp_path, fail, work=1000.0), units(50, 0.02))
    assert len(list(tmp_path.rglob("*.txt"))) < 50


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_every_step_end_and_hands_out_no_more(number, tmp_path):
    def stop(done, total, note):
        if done == 5:
            os.kill(os.getpid(), number)

    run = Run(tmp_path, stop, work=400.0)
    with spreading(2) as spread:
        with pytest.raises(Stopped) as stopped, stop_on_signals():
            spread(run, units(40, 0.02))
        assert stopped.value.signal == number
        left = {path.name: len(path.read_text()) for path in tmp_path.rglob("*.txt")}
        assert len(left) < 40
        assert min(left.values()) >= 1
        spread(run, units(40))  # and the same processes go on
    assert all(len(path.read_text()) == 10 for path in tmp_path.rglob("*.txt"))
    assert len(list(tmp_path.rglob("*.txt"))) == 40


OWNER = """
import sys
from pathlib import Path
import slow_unit
from qgraft.studies.parallel import spreading
from qgraft.studies.run import Run, Unit
with spreading(2) as spread:
    spread(Run(Path(sys.argv[1]), work=1.0), [Unit(slow_unit.step, (), (k,), ()) for k in (1, 2)])
"""
SLOW = """
import time
def step(run, number):
    for count in range(100):
        (run.folder / f"{number}.txt").write_text("x" * count)
        time.sleep(0.1)
"""


def test_no_unit_outlives_a_killed_owner(tmp_path):
    (tmp_path / "slow_unit.py").write_text(SLOW)
    path = os.pathsep.join([str(tmp_path), *sys.path])
    command = [sys.executable, "-c", OWNER, str(tmp_path)]
    with subprocess.Popen(command, env={**os.environ, "PYTHONPATH": path}) as owner:
        while len(list(tmp_path.rglob("?.txt"))) < 2:
            assert owner.poll() is None
            time.sleep(0.05)
        owner.kill()
    time.sleep(1.0)

    def state():
        return {p.name: len(p.read_text()) for p in tmp_path.rglob("?.txt")}

    before = state()
    time.sleep(0.5)
    assert state() == before
    assert max(before.values()) < 99


def test_one_job_leaves_the_units_to_the_study(tmp_path):
    def never():
        raise AssertionError("units are not even made")
        yield

    with spreading(1) as spread:
        spread(Run(tmp_path), never())
    with pytest.raises(ConfigError, match="--jobs 0: give 1 or more"), spreading(0):
        pass


def test_who_works_is_not_part_of_the_command(monkeypatch):
    for words in (["--jobs", "4"], ["--jobs=4", "--resume"], ["--dask", "tcp://a:1"], []):
        monkeypatch.setattr(sys, "argv", ["qgraft", "demo", *words, "--out", "my runs"])
        assert study.typed_command() == "qgraft demo --out 'my runs'"


def test_the_option_is_there_and_checked():
    result = CliRunner().invoke(app, ["demo", "--jobs", "0"])
    assert isinstance(result.exception, ConfigError)
    assert "--jobs 0" in str(result.exception)


def test_a_killed_process_is_one_clear_error(tmp_path):
    message = r"was killed .*--jobs 2.*--resume"
    with spreading(2) as spread, pytest.raises(RunError, match=message):
        spread(Run(tmp_path, work=1.0), [Unit(failing, (), ("kill",), ())])
