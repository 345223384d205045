"""The same studies on a dask cluster: a real scheduler and real workers, one of which is killed."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from qgraft.cli import app, main
from qgraft.errors import ConfigError, RunError
from qgraft.studies import cluster
from qgraft.studies.parallel import spreading
from qgraft.studies.run import SUMS_FILE, Run, Unit
from qgraft.training.checkpoint import atomic_write

pytest.importorskip("distributed")

# What a worker can import: the package, and this module of units.
UNITS = """
import os, signal, warnings
from qgraft.errors import RunError
from qgraft.training.checkpoint import RecoveryWarning, atomic_write

def write(run, shared, number):
    path = run.folder / "heads" / f"{number}.txt"
    before = path.read_text() if path.exists() else ""
    run.advance(1.0, "done")
    atomic_write(path, before + shared)
    warnings.warn("noted", RecoveryWarning)

def fail(run):
    raise RunError("the loss became nan")

def die(run, boss):
    assert os.getpid() != boss
    os.kill(os.getpid(), signal.SIGKILL)
"""


class Cluster:
    """A scheduler and workers of one thread, each with a folder of its own."""

    def __init__(self, folder):
        self.folder = folder
        (folder / "far_units.py").write_text(UNITS)
        path = os.pathsep.join([str(folder), *sys.path])
        self.environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
        self.file = folder / "scheduler.json"
        self.processes = []
        self.start("scheduler", "--host", "127.0.0.1", "--port", "0",
                   "--scheduler-file", self.file)  # fmt: skip
        while not self.file.exists():
            time.sleep(0.05)
        self.address = re.search(r"tcp://[\d.:]+", self.file.read_text())[0]
        self.workers = [self.worker(), self.worker()]

    def start(self, kind, *options):
        log = open(self.folder / f"{kind}-{len(self.processes)}.log", "w")  # noqa: SIM115
        command = [sys.executable, "-m", "dask", kind, "--no-dashboard", *map(str, options)]
        process = subprocess.Popen(
            command, env=self.environment, stdout=log, stderr=log, cwd=self.folder
        )
        log.close()
        self.processes.append(process)
        return process

    def worker(self):
        place = self.folder / f"worker-{len(self.processes)}"
        return self.start("worker", self.address, "--nthreads", 1, "--no-nanny",
                          "--host", "127.0.0.1", "--local-directory", place)  # fmt: skip

    def close(self):
        for process in self.processes:
            process.kill()
            process.wait()


@pytest.fixture(scope="module")
def two_workers(tmp_path_factory):
    cluster = Cluster(tmp_path_factory.mktemp("cluster"))
    sys.path.insert(0, str(cluster.folder))
    yield cluster
    sys.path.remove(str(cluster.folder))
    cluster.close()


@pytest.fixture
def studies():
    import importlib.util

    place = Path(__file__).with_name("test_parallel.py")
    spec = importlib.util.spec_from_file_location("studies_for_dask", place)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_units_work_elsewhere_and_only_their_files_come_back(two_workers, tmp_path):
    import far_units

    atomic_write(tmp_path / "heads" / "0.txt", "begun ")  # by an earlier run
    seen = []
    with spreading(None, str(two_workers.file)) as spread:
        run = Run(tmp_path, lambda *state: seen.append(state), work=5.0)
        units = [
            Unit(far_units.write, ("here",), (k,), (f"heads/{k}.txt",)) for k in range(5)
        ]  # fmt: skip
        with pytest.warns(cluster.RecoveryWarning, match="noted"):
            spread(run, units)
        with pytest.raises(RunError, match="the loss became nan"):
            spread(run, [Unit(far_units.fail, (), (), ())])
    texts = [(tmp_path / "heads" / f"{k}.txt").read_text() for k in range(5)]
    assert texts == ["begun here", *["here"] * 4]
    assert [state[0] for state in seen] == [1.0, 2.0, 3.0, 4.0, 5.0]


def test_a_study_gives_the_sums_it_gives_here_though_a_worker_is_killed(
    two_workers, studies, tmp_path
):
    alone = studies.run_study("surface", tmp_path / "alone", 1)
    killed = []

    def kill(done, total, note):
        if not killed:
            killed.append(two_workers.workers[0])
            os.kill(killed[0].pid, signal.SIGKILL)

    far = studies.run_study("surface", tmp_path / "far", None, two_workers.address, kill)
    assert far == alone
    assert killed[0].wait() == -signal.SIGKILL
    for line in far.splitlines():
        name = line.split("  ")[1]
        assert (tmp_path / "far" / name).read_bytes() == (tmp_path / "alone" / name).read_bytes()
    two_workers.workers[0] = two_workers.worker()
    far = studies.run_study("qcnn", tmp_path / "far-qcnn", None, two_workers.address)
    assert far == studies.run_study("qcnn", tmp_path / "near-qcnn", 1)
    assert (tmp_path / "far-qcnn" / SUMS_FILE).exists()


def test_a_unit_that_kills_its_workers_is_one_clear_error(two_workers, tmp_path):
    import far_units

    extra = [two_workers.worker() for _ in range(3)]
    with (
        spreading(None, two_workers.address) as spread,
        pytest.raises(RunError, match=r"killed \d workers.*memory"),
    ):
        spread(Run(tmp_path), [Unit(far_units.die, (), (os.getpid(),), ())])
    assert sum(worker.poll() is not None for worker in [*extra, *two_workers.workers]) >= 4


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:9", "nowhere", "tcp://", "missing.json"])
def test_a_wrong_address_is_one_clear_error_within_seconds(address, tmp_path, monkeypatch, capsys):
    out = str(tmp_path / "run")
    monkeypatch.setattr(sys, "argv", ["qgraft", "demo", "--dask", address, "--out", out])
    start = time.monotonic()
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert time.monotonic() - start < 15
    error = capsys.readouterr().err
    assert f"error: no dask scheduler answers at {address!r}" in error
    assert "Traceback" not in error
    assert not (tmp_path / "run").exists(), "nothing is touched"


def test_dask_is_optional(monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    result = CliRunner().invoke(app, ["reproduce", "spirals", "--dask", "tcp://127.0.0.1:9"])
    assert isinstance(result.exception, ConfigError)
    assert "pip install qgraft[dask]" in str(result.exception)


def test_a_cluster_without_workers_says_so(two_workers, monkeypatch):
    for worker in two_workers.processes[1:]:
        worker.kill()
        worker.wait()
    monkeypatch.setattr(cluster, "WORKERS_S", 1.0)
    with (
        pytest.raises(RunError, match="has had no worker for 1 s"),
        spreading(1, two_workers.address),
    ):
        pass
