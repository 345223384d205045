"""A disk that is full, fails or is forbidden: one clear line, and nothing whole is lost."""

import errno
import os
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from qgraft import cli
from qgraft.seeds import torch_stream
from qgraft.training import checkpoint, kept
from qgraft.training.checkpoint import atomic_write, load_newest, load_tensors, read_json
from qgraft.training.loop import Recipe, Samples, train

FAULTS = {
    "disk full": (errno.ENOSPC, "No space left on device"),
    "device fails": (errno.EIO, "Input/output error"),
    "forbidden": (errno.EACCES, "Permission denied"),
    "quota": (errno.EDQUOT, "Disk quota exceeded"),
    "read-only": (errno.EROFS, "Read-only file system"),
}
OPERATIONS = ("open", "write", "fsync", "replace")


class FaultyOs:
    """The module `os` as `checkpoint` sees it: one operation fails at its call number `at`."""

    def __init__(self, operation, at, number, *, half_first=False):
        self.operation, self.left, self.number = operation, at, number
        self.half_first = half_first

    def __getattr__(self, name):
        function = getattr(os, name)
        if name != self.operation:
            return function

        def faulty(*arguments):
            self.left -= 1
            if self.left > 0 or self.left < -3:  # a few in a row: the mending hits them as well
                return function(*arguments)
            if self.half_first and self.left == 0:
                return function(arguments[0], arguments[1][: len(arguments[1]) // 2])
            raise OSError(self.number, os.strerror(self.number))

        return faulty


FEATURES = torch.randn(24, 6, generator=torch.Generator().manual_seed(0))
SAMPLES = Samples(FEATURES, (FEATURES[:, 0] > 0).long())
RECIPE = Recipe(epochs=4, learning_rate=0.01, batch_size=8)


def network():
    with torch_stream(0, "faults"):
        return nn.Sequential(nn.Linear(6, 4), nn.Dropout(0.2), nn.Linear(4, 2))


@pytest.fixture
def whole(tmp_path):
    """Return the bytes of a training that nothing disturbed."""
    file = tmp_path / "whole.safetensors"
    train(network(), SAMPLES, None, RECIPE, seed=1, checkpoint=file)
    return file.read_bytes()


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("at", [1, 5, 13])
def test_a_fault_leaves_the_checkpoint_before(fault, operation, at, tmp_path, monkeypatch, whole):
    monkeypatch.setattr(kept, "STORE_EVERY_S", 0.0)
    number, words = FAULTS[fault]
    file = tmp_path / "run" / "one.safetensors"
    with monkeypatch.context() as disk:
        disk.setattr(checkpoint, "os", FaultyOs(operation, at, number))
        with pytest.raises(OSError, match=words) as caught:
            train(network(), SAMPLES, None, RECIPE, seed=1, checkpoint=file)
    assert caught.value.filename == str(file)
    names = {path.name for path in file.parent.glob("*")} | {
        path.name for path in file.parent.glob(".*")
    }
    assert names <= {"one.safetensors", ".one.safetensors.previous"}  # nothing half-written
    if at > 1:
        assert load_newest(file)
    train(network(), SAMPLES, None, RECIPE, seed=1, checkpoint=file)
    assert file.read_bytes() == whole


@pytest.mark.parametrize("fault", FAULTS)
def test_half_a_write_is_no_checkpoint(fault, tmp_path, monkeypatch):
    file = tmp_path / "x.json"
    atomic_write(file, "old")
    monkeypatch.setattr(checkpoint, "os", FaultyOs("write", 1, FAULTS[fault][0], half_first=True))
    with pytest.raises(OSError, match=FAULTS[fault][1]):
        atomic_write(file, "new and longer")
    assert file.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["x.json"]


def test_short_writes_are_completed(tmp_path, monkeypatch):
    class SlowOs(FaultyOs):
        def __getattr__(self, name):
            if name == "write":
                return lambda handle, data: os.write(handle, data[:7])
            return getattr(os, name)

    monkeypatch.setattr(checkpoint, "os", SlowOs("", 0, 0))
    atomic_write(tmp_path / "x", bytes(range(250)))
    assert (tmp_path / "x").read_bytes() == bytes(range(250))


# --- the commands ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    folder = tmp_path_factory.mktemp("parts")
    rng = np.random.default_rng(0)
    for label, grey in (("normal", 90), ("anomalous", 160)):
        (folder / label).mkdir()
        for i in range(12):
            pixels = rng.normal(grey, 10, (40, 40)).clip(0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / label / f"{i}.png")
    return folder


def call(monkeypatch, capsys, *words):
    monkeypatch.setattr(sys, "argv", ["qgraft", *map(str, words)])
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit) as stop:
        cli.main()
    printed = capsys.readouterr()
    return stop.value.code, printed.err.splitlines()


QUICK = ("--epochs", 1, "--head-epochs", 1, "--folds", 2)


@pytest.mark.parametrize(
    ("operation", "at", "fault"),
    [("open", 1, "forbidden"), ("write", 4, "disk full"), ("fsync", 9, "device fails"),
     ("replace", 3, "read-only"), ("write", 1, "quota")],
)  # fmt: skip
def test_a_fault_is_one_line_and_says_how_to_go_on(
    operation, at, fault, parts, tmp_path, monkeypatch, capsys
):
    out = tmp_path / "run"
    number, words = FAULTS[fault]
    with monkeypatch.context() as disk:
        disk.setattr(checkpoint, "os", FaultyOs(operation, at, number))
        code, errors = call(monkeypatch, capsys, "fit", parts, *QUICK, "--out", out)
    assert code == 2
    (line,) = [line for line in errors if "%" not in line]  # beside the lines of progress
    assert line.startswith(f"error: {out}")
    assert words in line
    assert line.endswith("; mend that and go on with the same command and --resume")
    assert not list(out.rglob(".*.part"))
    for file in out.rglob("*.safetensors"):
        assert load_tensors(file)
    for file in out.rglob("*.json"):
        read_json(file)


LIMITED = """
import resource, sys
from pathlib import Path
from qgraft.training.checkpoint import atomic_write

atomic_write(Path(sys.argv[1]), b"small")
resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))
try:
    atomic_write(Path(sys.argv[1]), bytes(20_000))
except OSError as error:
    print(error.strerror, error.filename)
"""


def test_a_real_limit_of_the_system(tmp_path):
    """The system takes the first 5,000 bytes of a write and refuses the rest."""
    file = tmp_path / "x"
    words = [sys.executable, "-c", LIMITED, str(file)]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert done.stdout == f"File too large {file}\n"
    assert file.read_bytes() == b"small"
    assert os.listdir(tmp_path) == ["x"]
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != 5000


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_device_that_is_always_full(parts, monkeypatch, capsys):
    code, errors = call(monkeypatch, capsys, "fit", parts, *QUICK, "--out", "/dev/full")
    assert code == 2
    assert errors[-1] == "error: /dev/full is a file; --out must name a folder"


def test_a_cache_that_cannot_be_written_only_costs_time(tmp_path, monkeypatch):
    from qgraft.trunks.features import cached_features

    monkeypatch.setenv("QGRAFT_CACHE", str(tmp_path))
    images = torch.zeros(2, 1, 4, 4, dtype=torch.uint8)
    monkeypatch.setattr(checkpoint, "os", FaultyOs("write", 1, errno.ENOSPC))
    assert cached_features(nn.Flatten(), images, "digest").shape == (2, 16)
    assert not list(tmp_path.rglob("*.*"))


def test_half_written_cache_files_are_swept_once_they_are_old(tmp_path, monkeypatch):
    from qgraft.trunks.features import PART_AGE_S, cache_folder, cached_features

    monkeypatch.setenv("QGRAFT_CACHE", str(tmp_path))
    folder = cache_folder()
    folder.mkdir(parents=True)
    old, fresh = folder / ".a.safetensors.1.part", folder / ".b.safetensors.2.part"
    for part in (old, fresh):
        part.write_bytes(b"half")
    past = old.stat().st_mtime - PART_AGE_S - 60
    os.utime(old, (past, past))
    cached_features(nn.Flatten(), torch.zeros(2, 1, 4, 4, dtype=torch.uint8), "digest")
    assert not old.exists()
    assert fresh.exists()
