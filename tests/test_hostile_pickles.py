"""Pickles from strangers: a hostile one is never run, an honest one is converted."""

import io
import os
import pickle
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from qgraft import cli
from qgraft.data.annotations import read_annotation
from qgraft.data.images import read_image
from qgraft.data.manifest import read_manifest
from qgraft.errors import QgraftError, WeightsError
from qgraft.reports.rundir import _arrays
from qgraft.training.checkpoint import load_tensors, read_json
from qgraft.training.kept import load_trained
from qgraft.trunks import foreign_weights
from qgraft.trunks.foreign_weights import convert_weights
from qgraft.trunks.unpickle import named_tensors


class Runs:
    """An object whose pickle calls `function(*arguments)` when it is read."""

    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


class Builds:
    """An object whose pickle sets attributes of another when it is read."""

    def __reduce__(self):
        return torch.Size, ((1,),), {"__class__": Runs(os.system, "true")}


def in_zip(pickled, *, twice=False):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("archive/version", "3\n")
        archive.writestr("archive/data.pkl", pickle.dumps({"a": 1}, 2) if twice else pickled)
        if twice:
            with pytest.warns(UserWarning, match="Duplicate name"):
                archive.writestr("archive/data.pkl", pickled)
    return buffer.getvalue()


def tensor_of(size, strides, storage_bytes):
    """Return a torch file of a tensor that says more than its storage holds."""
    buffer = io.BytesIO()
    torch.save({"a": torch.zeros(4)}, buffer)
    with zipfile.ZipFile(buffer) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    name = next(name for name in entries if name.endswith("data.pkl"))
    old = pickle.dumps((4,), 2)[2:-1].replace(b"q\x00", b"")
    assert old[:2] == b"K\x04"
    content = entries[name]
    entries[name] = content.replace(b"K\x04", b"J" + struct.pack("<i", size), strides)
    rewritten = io.BytesIO()
    with zipfile.ZipFile(rewritten, "w") as archive:
        for key, value in entries.items():
            archive.writestr(key, value[:storage_bytes] if key.endswith("/0") else value)
    return rewritten.getvalue()


def hostile_pickles(canary):
    """Return files that would make `canary` if anybody ran them, or that abuse a reader."""
    touch = f"touch {canary}"
    run = pickle.dumps(Runs(os.system, touch), 2)
    objects = io.BytesIO()
    np.save(objects, np.array([Runs(os.system, touch)], object), allow_pickle=True)
    return {
        "os.system": run,
        "popen": pickle.dumps(Runs(subprocess.Popen, ["touch", canary])),
        "eval": pickle.dumps(Runs(eval, f"open({canary!r}, 'w')")),
        "exec": pickle.dumps(Runs(exec, f"open({canary!r}, 'w')")),
        "open": pickle.dumps(Runs(open, canary, "w")),
        "in a dictionary": pickle.dumps({"state_dict": {"a": Runs(os.system, touch)}}, 2),
        "in a tuple in a list": pickle.dumps([[(Runs(os.system, touch),)]], 2),
        "after good weights": pickle.dumps({"a": 1}, 2) + run,
        "by build": pickle.dumps(Builds(), 2),
        "torch zip": in_zip(run),
        "zip with two entries": in_zip(run, twice=True),
        "torch.hub": pickle.dumps(Runs(torch.hub.load_state_dict_from_url, "http://127.0.0.1:9/x")),
        "nested load": pickle.dumps(Runs(torch.load, canary), 2),
        "protocol 0": b"cos\nsystem\n(S'" + touch.encode() + b"'\ntR.",
        "marks": b"\x80\x02" + b"(" * 1_000_000 + b".",
        "empty stack": b"\x80\x02" + b"0" * 100 + b".",
        "memo of 2**31": b"\x80\x02]r\xff\xff\xff\x7f.",
        "deep lists": b"\x80\x02" + b"]" * 500_000 + b"a" * 499_999 + b".",
        "long of 2 GB": b"\x80\x02\x8b\xff\xff\xff\x7f" + bytes(64),
        "array of objects": objects.getvalue(),
        "tensor past its storage": tensor_of(1_000_000, -1, 16),
        "cut off": in_zip(run)[:-30],
    }


NAMES = sorted(hostile_pickles("unused"))


@pytest.fixture
def hostile(tmp_path):
    """Write the hostile files under every suffix; after the test the canary must not be there."""
    canary = tmp_path / "canary"
    files = {}
    for name, data in hostile_pickles(str(canary)).items():
        files[name] = tmp_path / f"{name}.pth"
        files[name].write_bytes(data)
    yield files
    assert not canary.exists()


def test_no_reader_runs_a_pickle(hostile, tmp_path):
    readers = (
        load_tensors,
        lambda path: load_tensors(path, foreign=True),
        lambda path: load_trained(path, nn.Linear(2, 2)),
        read_json,
        _arrays,
        lambda path: read_image(path, channels=1),
        read_annotation,
        read_manifest,
    )
    assert len(hostile) >= 20
    for path in hostile.values():
        for reader in readers:
            with pytest.raises(QgraftError):
                reader(path)


GUARDED = """
import os, sys
from pathlib import Path

import torch

from qgraft.errors import WeightsError
from qgraft.trunks import unpickle

for source in sys.argv[1:]:
    child = os.fork()
    if not child:
        try:
            unpickle.main(Path(source), Path(source + ".out"))
        except WeightsError as refusal:
            print(f"{Path(source).stem}: {refusal}", flush=True)
            os._exit(3)
        os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    print(f"{Path(source).stem} -> {code}", flush=True)
"""


def test_the_guarded_process_refuses_them_all(hostile):
    words = [sys.executable, "-c", GUARDED, *map(str, hostile.values())]
    done = subprocess.run(words, capture_output=True, text=True, check=True, timeout=300)
    for name, path in hostile.items():
        if name == "after good weights":
            continue  # the first pickle ends before it
        assert f"{name} -> 3\n" in done.stdout, done.stdout + done.stderr
        assert not Path(f"{path}.out").exists()


def test_the_guard_stops_what_an_unpickler_would_let_through(tmp_path):
    """Suppose torch's own refusal failed: the audit hook still ends the process."""
    canary = tmp_path / "canary"
    actions = {
        "os.system": f"os.system('touch {canary}')",
        "subprocess": f"subprocess.run(['touch', '{canary}'])",
        "open": f"open('{canary}', 'w')",
        "os.open": f"os.open('{canary}', os.O_CREAT | os.O_WRONLY)",
        "socket": "socket.socket()",
        "os.fork": "os.fork()",
        "pickle": "pickle.loads(pickle.dumps(os.getcwd))",
        "nothing": "None",
    }
    script = "import os, pickle, socket, subprocess, sys\n"
    script += "from qgraft.trunks.unpickle import _Guard\n"
    script += "guard = _Guard()\nsys.addaudithook(guard)\nguard.watching = True\n"
    for name, action in actions.items():
        words = [sys.executable, "-S", "-c", script + action]
        paths = os.pathsep.join(filter(None, sys.path))
        done = subprocess.run(words, capture_output=True, env={"PYTHONPATH": paths}, check=False)
        assert done.returncode == (0 if name == "nothing" else 3), (name, done.stderr)
    assert not canary.exists()


# --- convert-weights ---------------------------------------------------------------------------


def call(monkeypatch, capsys, *words):
    monkeypatch.setattr(sys, "argv", ["qgraft", *map(str, words)])
    try:
        cli.main()
        code = 0
    except SystemExit as stop:
        code = stop.code or 0
    return code, capsys.readouterr().err


def test_honest_weights_are_converted(tmp_path, monkeypatch, capsys):
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    source, target = tmp_path / "in.pth", tmp_path / "out" / "w.safetensors"
    torch.save({"epoch": 3, "state_dict": model.state_dict()}, source)
    code, said = call(monkeypatch, capsys, "convert-weights", source, target)
    assert (code, said) == (0, f"7 tensors written to {target}\n")
    loaded = load_tensors(target)
    for name, tensor in model.state_dict().items():
        assert torch.equal(loaded[name], tensor)
    code, said = call(monkeypatch, capsys, "convert-weights", source, target)
    assert (code, said) == (2, f"error: {target} exists; name a new file\n")


def test_a_hostile_file_is_one_line(hostile, tmp_path, monkeypatch, capsys):
    target = tmp_path / "w.safetensors"
    code, said = call(monkeypatch, capsys, "convert-weights", hostile["torch zip"], target)
    assert code == 2
    assert said.startswith(
        f"error: {hostile['torch zip']} cannot be converted: it is not a file of"
    )
    assert said.endswith("; nothing in it was used\n")
    assert len(said.splitlines()) == 1
    assert not target.exists()


def test_foreign_safetensors_get_a_checksum(tmp_path):
    from safetensors.torch import save_file

    source, target = tmp_path / "in.safetensors", tmp_path / "out.safetensors"
    save_file({"a": torch.ones(2)}, source)
    with pytest.raises(
        WeightsError, match="it has no checksum; bring weights from elsewhere in by"
    ):
        load_tensors(source)
    assert convert_weights(source, target) == 1
    assert load_tensors(target)["a"].tolist() == [1, 1]


def test_limits_of_the_conversion(tmp_path, monkeypatch):
    source, target = tmp_path / "in.pth", tmp_path / "w.safetensors"
    with pytest.raises(WeightsError, match="does not exist or is not a file"):
        convert_weights(source, target)
    source.write_bytes(b"x")
    with pytest.raises(WeightsError, match=r"must end in \.safetensors"):
        convert_weights(source, tmp_path / "w.pth")
    with zipfile.ZipFile(source, "w", zipfile.ZIP_DEFLATED) as archive:
        for number in range(3):
            archive.writestr(f"archive/data/{number}", bytes(2**20))
    monkeypatch.setattr(foreign_weights, "MAX_WEIGHT_BYTES", 2 * 2**20)
    with pytest.raises(WeightsError, match="unpacks to 3 entries and 3,145,728 bytes; allowed are"):
        convert_weights(source, target)
    source.write_bytes(bytes(2**21 + 1))
    with pytest.raises(WeightsError, match="is larger than"):
        convert_weights(source, target)
    source.write_bytes(in_zip(b"", twice=True))
    with pytest.raises(WeightsError, match="two entries of one name"):
        convert_weights(source, target)
    source.write_bytes(in_zip(b"")[:-4] + b"\xff\xff\xff\xff")
    with pytest.raises(WeightsError, match=r"is a damaged archive|cannot be converted"):
        convert_weights(source, target)
    monkeypatch.setattr("importlib.metadata.version", lambda name: "2.9.1+cpu")
    with pytest.raises(WeightsError, match=r"torch 2\.9\.1\+cpu cannot open such files safely"):
        convert_weights(source, target)


def test_a_reader_that_hangs_or_dies_is_ended(tmp_path, monkeypatch):
    source, target = tmp_path / "in.pth", tmp_path / "w.safetensors"
    source.write_bytes(b"x")

    def hang(*words, **options):
        raise subprocess.TimeoutExpired("python", 240)

    monkeypatch.setattr(subprocess, "run", hang)
    with pytest.raises(WeightsError, match="took longer than 240 s to read"):
        convert_weights(source, target)
    died = subprocess.CompletedProcess([], -9, "", "Traceback ...")
    monkeypatch.setattr(subprocess, "run", lambda *words, **options: died)
    with pytest.raises(WeightsError, match="the process that read it ended with -9; nothing in it"):
        convert_weights(source, target)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([torch.ones(1)], "it holds a list, not a dictionary of tensors"),
        ({}, "it holds a dict, not a dictionary"),
        ({"a": 1}, "its entry 'a' is a int"),
        ({1: torch.ones(1)}, "its entry '1' is a Tensor"),
        ({"a": torch.eye(2).to_sparse()}, "its tensor 'a' is sparse or quantised"),
        ({"a": torch.tensor(float("nan"))}, "its tensor 'a' holds values that are not finite"),
    ],
)
def test_only_dictionaries_of_plain_tensors(value, message):
    with pytest.raises(WeightsError, match=message):
        named_tensors(value)
