"""The same studies on a dask cluster: a real scheduler and real workers, some of them killed."""

import importlib.util
import os
import re
import signal
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest
from typer.testing import CliRunner

from qgraft.cli import app, main
from qgraft.config import PhotonicConfig
from qgraft.errors import ConfigError, RunError
from qgraft.studies import cluster
from qgraft.studies.parallel import spreading
from qgraft.studies.photonic import run_photonic
from qgraft.studies.run import SUMS_FILE, Run, Unit, open_run
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

    def __init__(self, folder, n_workers):
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
        self.workers = [self.worker() for _ in range(n_workers)]

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
    cluster = Cluster(tmp_path_factory.mktemp("cluster"), 2)
    sys.path.insert(0, str(cluster.folder))
    yield cluster
    sys.path.remove(str(cluster.folder))
    cluster.close()


def neighbour(name):
    """Import another module of tests."""
    place = Path(__file__).with_name(f"{name}.py")
    spec = importlib.util.spec_from_file_location(f"{name}_for_dask", place)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


features = neighbour("test_features")
pictures, weights, source = features.pictures, features.weights, features.source


@pytest.fixture
def studies():
    return neighbour("test_parallel")


@pytest.fixture
def kill_after_first_unit(monkeypatch):
    """Return a function that lets a process be killed as soon as the first unit has come back."""

    def arrange(process, goodbye_s=cluster.CONNECT_S):
        take = cluster.take

        def take_and_kill(*arguments):
            take(*arguments)
            process.kill()
            process.wait()
            monkeypatch.setattr(cluster, "CONNECT_S", goodbye_s)

        monkeypatch.setattr(cluster, "take", take_and_kill)

    return arrange


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


@pytest.mark.parametrize("name", ["qcnn", "photonic-qc", "photonic-qq"])
def test_other_studies_give_their_sums_as_well(name, two_workers, studies, tmp_path):
    far = studies.run_study(name, tmp_path / "far", None, two_workers.address)
    assert far == studies.run_study(name, tmp_path / "near", 1)


def test_shards_of_features_are_the_same_though_a_worker_is_killed(
    two_workers, source, kill_after_first_unit, tmp_path
):
    source = source._replace(shard_size=2)
    alone = features.extract(tmp_path / "alone", source, 1)
    kill_after_first_unit(two_workers.workers[1])
    far = features.extract(tmp_path / "far", source, None, two_workers.address)
    assert two_workers.workers[1].poll() == -signal.SIGKILL
    two_workers.workers[1] = two_workers.worker()
    assert far == alone
    assert len(far["shards"]) == 12
    for shard in far["shards"]:
        near = (tmp_path / "alone" / shard["file"]).read_bytes()
        assert (tmp_path / "far" / shard["file"]).read_bytes() == near
    sums = [(tmp_path / place / SUMS_FILE).read_text() for place in ("alone", "far")]
    assert sums[0] == sums[1]


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


def test_a_cluster_without_workers_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(cluster, "WORKERS_S", 1.0)
    with (
        closing(Cluster(tmp_path, 0)) as empty,
        pytest.raises(RunError, match="has had no worker for 1 s"),
        spreading(1, empty.address),
    ):
        pass


def test_a_lost_scheduler_is_one_clear_error_and_resume_goes_on_without(
    two_workers, kill_after_first_unit, tmp_path, monkeypatch, capsys
):
    if all(worker.poll() is not None for worker in two_workers.processes[1:]):
        two_workers.worker()
    steps = (2, 3, 4, 5, 6, 7)
    words = ["reproduce", "photonic-qq", "--seeds", "1", "--steps", ",".join(map(str, steps)),
             "--out", str(tmp_path / "far")]  # fmt: skip
    kill_after_first_unit(two_workers.processes[0], goodbye_s=0.5)
    monkeypatch.setattr(sys, "argv", ["qgraft", *words, "--dask", two_workers.address])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if "error" in line.lower()]
    assert len(errors) == 1
    assert errors[0].startswith("error: the connection to the dask scheduler was lost; what had")
    came_back = {path: path.stat().st_mtime_ns for path in (tmp_path / "far/heads").iterdir()}
    assert 1 <= len(came_back) < 3 * len(steps)

    config = PhotonicConfig(study="photonic-qq", steps=steps, test_batches=500, seeds=1)
    settings = config.model_dump(mode="json")
    for place, resume in (("far", True), ("near", False)):
        with spreading(1) as spread:
            run_photonic(open_run(tmp_path / place, settings, resume=resume, spread=spread), config)
    assert {path: path.stat().st_mtime_ns for path in came_back} == came_back
    near = [tmp_path / "near/result.json", *sorted((tmp_path / "near/heads").iterdir())]
    assert len(near) == 1 + 3 * len(steps)
    for path in near:
        far = tmp_path / "far" / path.relative_to(tmp_path / "near")
        assert far.read_bytes() == path.read_bytes()
