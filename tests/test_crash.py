"""Runs that are killed at any write, stopped by signals or find damage end with the same bits.

What a killed process leaves is what lies on the disk at that moment. So a run is made once, its
folder is copied at every point inside every write, and each copy is resumed. A few real kills
show that the copies are what a kill leaves.
"""

import errno
import fcntl
import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from qgraft.config import SurfaceConfig, resolve
from qgraft.data.imageset import ImageSet
from qgraft.data.splits import Splits
from qgraft.errors import RunError, WeightsError
from qgraft.heads.dressed import DressedHead
from qgraft.seeds import torch_stream
from qgraft.studies import classical, lock, two_stage
from qgraft.studies.hybrid import Hybrid, train_hybrid
from qgraft.studies.run import SUMS_FILE, keep_data, open_run, remove_run
from qgraft.studies.two_stage import Plan, run_two_stage
from qgraft.training import checkpoint, kept
from qgraft.training.checkpoint import (
    DamagedError,
    RecoveryWarning,
    atomic_write,
    load_newest,
    load_tensors,
    parse_tensors,
    previous_of,
    read_json,
    save_tensors,
    write_json,
)
from qgraft.training.kept import finished_epochs, load_trained
from qgraft.training.loop import Recipe, Samples, train
from qgraft.training.stopping import Stopped, stop_on_signals

NIGHTLY = bool(os.environ.get("QGRAFT_NIGHTLY"))
KEPT_APART = {"timings.json", "env.json", ".lock"}  # seconds, machines and processes differ


class WatchedOs:
    """The module `os` as `checkpoint` sees it, with a call of `point` around every change."""

    def __init__(self, point):
        self.point, self.halved = point, set()

    def __getattr__(self, name):
        return getattr(os, name)

    def write(self, handle, data):
        if handle not in self.halved:  # a short write is allowed, so the first one takes half
            self.halved.add(handle)
            data = data[: max(1, len(data) // 2)]
        written = os.write(handle, data)
        self.point()
        return written

    def close(self, handle):
        self.halved.discard(handle)
        os.close(handle)

    def _around(self, name, *arguments):
        self.point()
        result = getattr(os, name)(*arguments)
        self.point()
        return result

    def open(self, *arguments):
        return self._around("open", *arguments)

    def fsync(self, *arguments):
        return self._around("fsync", *arguments)

    def replace(self, *arguments):
        return self._around("replace", *arguments)


class Camera:
    """Copies of a folder at every point, equal ones once."""

    def __init__(self, folder, album):
        self.folder, self.album = folder, album
        self.points, self.states, self.seen = 0, [], set()

    def __call__(self):
        self.points += 1
        files = sorted(path for path in self.folder.rglob("*") if path.is_file())
        facts = [(path, path.stat()) for path in files]
        state = tuple((str(path), fact.st_ino, fact.st_size) for path, fact in facts)
        if state in self.seen:
            return
        self.seen.add(state)
        copy = self.album / str(len(self.states))
        copy.mkdir(parents=True)
        for path in files:
            target = copy / path.relative_to(self.folder)
            target.parent.mkdir(parents=True, exist_ok=True)
            if path.suffix == ".part" or path.name == lock.LOCK_FILE:
                target.write_bytes(path.read_bytes())
            else:
                os.link(path, target)  # whole files are replaced, never changed
        self.states.append(copy)


def outcome(folder):
    """Return what must not depend on how often a run was stopped."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in files
        if path.name not in KEPT_APART and not path.name.endswith(".previous")
    }


IMAGES = torch.randint(
    0, 255, (20, 1, 10, 10), generator=torch.Generator().manual_seed(0), dtype=torch.uint8
)
PICTURES = Samples(IMAGES, (IMAGES.float().mean((1, 2, 3)) > 127).long())
FEATURES = Samples(IMAGES.flatten(1)[:, :6].float() / 255, PICTURES.labels)


def small_cnn():
    with torch_stream(0, "crash cnn"):
        layers = (nn.Conv2d(1, 4, 3), nn.ReLU(), nn.BatchNorm2d(4), nn.Dropout(0.4), nn.Flatten())
        model = nn.Sequential(*layers, nn.Linear(4 * 8 * 8, 2))
    return model.to(memory_format=torch.channels_last)


def dressed_head():
    with torch_stream(0, "crash head"):
        return DressedHead(6, 2, n_qubits=2, depth=1, backend="torch")


def train_in(folder, model, samples):
    file = folder / "trunks" / "one.safetensors"
    history = train(model, samples, samples, Recipe(3, 0.01, 8), seed=4, checkpoint=file)
    write_json(folder / "curves.json", history)


def network_training(folder):
    train_in(folder, small_cnn(), PICTURES)


def head_training(folder):
    train_in(folder, dressed_head(), FEATURES)


def small_study_parts(n_folds=2, n=26):
    rng = np.random.default_rng(2)
    labels = np.arange(n) % 2
    pixels = (rng.normal(110, 30, (n, 8, 8)) + 40 * labels[:, None, None]).clip(0, 255)
    images = ImageSet(
        pixels.astype(np.uint8), labels, np.arange(n), tuple(f"{i}.png" for i in range(n))
    )
    order = rng.permutation(n)
    folds = tuple(np.array_split(order[4:], n_folds))
    return images, Splits(order[8:], order[4:8], order[:4], folds)


def tiny_network(name, channels=1, n_classes=2):
    dense = [nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 4), nn.ReLU()]
    return nn.Sequential(nn.Identity(), nn.Flatten(), *dense, nn.Linear(4, n_classes))


CONFIG = resolve(
    SurfaceConfig,
    {"data": "x", "models": ("cm2",), "inits": 1, "epochs": 2, "head_epochs": 2, "folds": 2,
     "batch_size": 16, "n_qubits": 2, "depth": 1, "controls": NIGHTLY},
)  # fmt: skip


def opened(folder, **options):
    resume = (folder / "config.json").exists()
    return open_run(folder, CONFIG.model_dump(mode="json"), resume=resume, **options)


def native_heads(folder, **options):
    """Train six heads by the compiled trainer."""
    images, splits = small_study_parts(n_folds=5)
    with torch_stream(0, "crash trunk"):
        network = tiny_network("cm2")
    run = opened(folder, **options)
    grafted = train_hybrid(run, network, "CM-2", Hybrid("QTL", 1), images, splits, CONFIG)
    write_json(folder / "curves.json", grafted.curves)


def whole_study(folder):
    images, splits = small_study_parts()
    plan = Plan("CM-2", "cm2", (Hybrid("QTL-M-1", 2), Hybrid("dense", 1, "dense")))
    run_two_stage(opened(folder), images, splits, [plan], CONFIG, notes=["a note"])


PROTOCOLS = {
    "network": network_training,
    "head in torch": head_training,
    "native heads": native_heads,
    "whole study": whole_study,
}


def be_quick_and_eager(setattr_):
    """Store after every step, and let the study train networks that take no time."""
    setattr_(kept, "STORE_EVERY_S", 0.0)
    setattr_(classical, "build_trunk", tiny_network)
    setattr_(two_stage, "spectrum_control", lambda *a, **k: None)
    setattr_(two_stage, "audit_images", lambda *a, **k: None)


@pytest.fixture(autouse=True)
def quick_and_eager(monkeypatch):
    be_quick_and_eager(monkeypatch.setattr)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_kill_at_any_write_changes_no_bit(protocol, tmp_path, monkeypatch):
    body, folder = PROTOCOLS[protocol], tmp_path / "run"
    camera = Camera(folder, tmp_path / "album")
    with monkeypatch.context() as watched:
        watched.setattr(checkpoint, "os", WatchedOs(camera))
        body(folder)
    expected = outcome(folder)
    assert camera.points >= (384 if protocol == "whole study" else 128)
    assert any(list(state.rglob(".*.part")) for state in camera.states)
    rest_easy(monkeypatch)
    every = 1 if NIGHTLY or protocol != "whole study" else 5
    for state in camera.states[::every]:
        body(state)
        assert outcome(state) == expected | outcome_of_strays(state, protocol)


def outcome_of_strays(state, protocol):
    """Return half-written files; only opening a run sweeps them."""
    in_run = protocol in ("native heads", "whole study")
    strays = [] if in_run else state.rglob(".*.part")
    return {str(path.relative_to(state)): path.read_bytes() for path in strays}


def rest_easy(monkeypatch):
    """A resume need not be eager, nor wait for a disk that nobody will unplug."""
    monkeypatch.setattr(kept, "STORE_EVERY_S", 10.0)
    monkeypatch.setattr(os, "fsync", lambda handle: None)


# --- real kills --------------------------------------------------------------------------------

KILLER = """
import os, signal, sys
from pathlib import Path

sys.path.insert(0, sys.argv[1])
import test_crash as crash

crash.be_quick_and_eager(setattr)
body = crash.PROTOCOLS[sys.argv[2]]
for place in map(int, sys.argv[4:]):
    child = os.fork()
    if not child:
        left = place

        def point():
            global left
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

        crash.checkpoint.os = crash.WatchedOs(point)
        body(Path(sys.argv[3]) / str(place))
        os._exit(1)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL
"""


@pytest.mark.parametrize("protocol", ["network", "native heads"])
def test_a_real_kill_leaves_no_more_than_that(protocol, tmp_path, monkeypatch):
    places = random.Random(3).sample(range(1, 120), 100 if NIGHTLY else 3)
    words = [Path(__file__).parent, protocol, tmp_path, *places]
    subprocess.run([sys.executable, "-c", KILLER, *map(str, words)], check=True, timeout=600)
    body = PROTOCOLS[protocol]
    rest_easy(monkeypatch)
    body(tmp_path / "whole")
    expected = outcome(tmp_path / "whole")
    for place in places:
        body(tmp_path / str(place))
        state = tmp_path / str(place)
        assert outcome(state) == expected | outcome_of_strays(state, protocol)


# --- damaged checkpoints -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def two_checkpoints(tmp_path_factory):
    """Return the folder of a training that was stopped in its third epoch."""
    folder = tmp_path_factory.mktemp("stopped")

    def stop(new, history):
        if len(history) == 2:
            raise KeyboardInterrupt

    file = folder / "one.safetensors"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kept, "STORE_EVERY_S", 0.0)
        with pytest.raises(KeyboardInterrupt):
            train(small_cnn(), PICTURES, PICTURES, RECIPE, seed=4, checkpoint=file, on_epoch=stop)
    return folder


RECIPE = Recipe(3, 0.01, 8)


def damaged(data):
    """Yield the file cut off at every 1/64 and with one of 1,000 random bytes changed."""
    for part in range(64):
        yield data[: len(data) * part // 64]
    rng = random.Random(1)
    for _ in range(1000):
        place = rng.randrange(len(data))
        yield b"".join(
            (data[:place], bytes([data[place] ^ rng.randint(1, 255)]), data[place + 1 :])
        )


def test_damage_is_always_seen(two_checkpoints):
    data = (two_checkpoints / "one.safetensors").read_bytes()
    parse_tensors(data, "intact")
    for bad in damaged(data):
        with pytest.raises(
            DamagedError, match=r"^it (is damaged or was changed|is not a readable)"
        ):
            parse_tensors(bad, "it")


def test_the_checkpoint_before_a_damaged_one_is_used(two_checkpoints, tmp_path, monkeypatch):
    rest_easy(monkeypatch)
    whole = tmp_path / "whole.safetensors"
    history = train(small_cnn(), PICTURES, PICTURES, RECIPE, seed=4, checkpoint=whole)
    data = (two_checkpoints / "one.safetensors").read_bytes()
    before = previous_of(two_checkpoints / "one.safetensors").read_bytes()
    for number, bad in enumerate(list(damaged(data))[:: 5 if NIGHTLY else 60]):
        file = tmp_path / str(number) / "one.safetensors"
        atomic_write(file, bad)
        atomic_write(previous_of(file), before)
        with pytest.warns(RecoveryWarning, match="; going on from the one before it$"):
            again = train(small_cnn(), PICTURES, PICTURES, RECIPE, seed=4, checkpoint=file)
        assert again == history
        assert file.read_bytes() == whole.read_bytes()


def test_without_an_intact_checkpoint_a_part_starts_again(tmp_path, monkeypatch):
    rest_easy(monkeypatch)
    whole, file = tmp_path / "whole.safetensors", tmp_path / "one.safetensors"
    train(small_cnn(), PICTURES, PICTURES, RECIPE, seed=4, checkpoint=whole)
    for path in (file, previous_of(file)):
        path.write_bytes(whole.read_bytes()[:-9])
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        train(small_cnn(), PICTURES, PICTURES, RECIPE, seed=4, checkpoint=file)
    said = [str(warning.message).partition("; ")[2] for warning in seen]
    assert said == ["going on from the one before it", "starting this part again"]
    assert file.read_bytes() == whole.read_bytes()
    file.write_bytes(b"")
    with pytest.warns(RecoveryWarning, match="starting this part again"):
        assert finished_epochs(file) == 0
    assert {path.name for path in tmp_path.glob(".*")} == {".one.safetensors.damaged"}
    file.write_bytes(b"")
    with pytest.raises(WeightsError, match="is not a readable safetensors file"):
        load_trained(file, small_cnn())


def test_a_checkpoint_of_another_training_is_refused_not_replaced(tmp_path):
    file = tmp_path / "one.safetensors"
    head = dressed_head()
    train(head, FEATURES, None, RECIPE._replace(epochs=1), seed=0, checkpoint=file)
    with pytest.raises(WeightsError, match="does not fit this model"):
        train(small_cnn(), PICTURES, None, RECIPE, seed=4, checkpoint=file)
    tensors = {f"model.{name}": tensor for name, tensor in head.state_dict().items()}
    for wrong, message in (
        ({"optimiser.0.step": torch.tensor(1.0)}, "holds the optimiser of another network"),
        ({"optimiser.x": torch.tensor(1.0)}, "holds the optimiser of another network"),
        ({"model.extra": torch.tensor(1.0)}, "1 tensors missing, unexpected"),
    ):
        save_tensors(file, tensors | wrong, history="[]")
        with pytest.raises(WeightsError, match=message):
            train(head, FEATURES, None, RECIPE, seed=0, checkpoint=file)
    for history in ("", "{}", '"x"', "[1]", '[{"a": "b"}]', "[" * 100_000, "NaN"):
        save_tensors(file, tensors, history=history)
        with pytest.raises(WeightsError, match="it has no history"):
            train(head, FEATURES, None, RECIPE, seed=0, checkpoint=file)


# --- signals -----------------------------------------------------------------------------------


def signalling(model, at, number, *, times=1):
    """Let `model` send itself a signal in the middle of its call `at`; return the list of calls."""
    calls = []

    def hook(module, inputs, output):
        calls.append(module.training)
        if len(calls) == at:
            for _ in range(times):
                signal.raise_signal(number)  # os.kill might reach another thread, and later

    model[0].register_forward_hook(hook)
    return calls


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "SIGTERM"])
def test_a_signal_loses_no_step(number, tmp_path, monkeypatch):
    rest_easy(monkeypatch)  # nothing is stored in between
    whole = tmp_path / "whole.safetensors"
    model = small_cnn()
    calls = signalling(model, 0, 0)
    train(model, PICTURES, PICTURES, RECIPE, seed=4, checkpoint=whole)
    assert len(calls) == 3 * (3 + 1)  # steps and one scoring an epoch
    for at in range(1, len(calls) + 1):
        file = tmp_path / str(at) / "one.safetensors"
        stopped, resumed = small_cnn(), small_cnn()
        done = signalling(stopped, at, number)
        with pytest.raises(Stopped) as caught, stop_on_signals():
            train(stopped, PICTURES, PICTURES, RECIPE, seed=4, checkpoint=file)
        assert caught.value.signal == number
        assert len(done) == at
        rest = signalling(resumed, 0, 0)
        train(resumed, PICTURES, PICTURES, RECIPE, seed=4, checkpoint=file)
        assert done + rest == calls if done[-1] else done[:-1] + rest == calls
        assert file.read_bytes() == whole.read_bytes()


def test_a_second_signal_does_not_wait(tmp_path):
    file = tmp_path / "one.safetensors"
    model = small_cnn()
    signalling(model, 2, signal.SIGINT, times=2)
    with pytest.raises(Stopped), stop_on_signals():
        train(model, PICTURES, PICTURES, RECIPE, seed=4, checkpoint=file)
    assert int(load_tensors(file)["epoch.steps"]) == 1  # step 2 was cut in two and is not stored
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.parametrize("threads", [1, 2])
def test_native_heads_stop_and_go_on(threads, tmp_path, monkeypatch):
    rest_easy(monkeypatch)
    native_heads(tmp_path / "whole")
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    for at in (1, 4, 7):
        count = 0

        def stop(done, total, note, at=at):
            nonlocal count
            count += 1
            if count == at:
                os.kill(os.getpid(), signal.SIGTERM)

        folder = tmp_path / f"stopped-{at}"
        with pytest.raises(Stopped), stop_on_signals():
            native_heads(folder, progress=stop)
        if threads == 1:
            assert len(list(folder.rglob("*.safetensors"))) == (at - 1) // CONFIG.head_epochs
        native_heads(folder)
        assert outcome(folder) == outcome(tmp_path / "whole")


def write_parts(folder):
    rng = np.random.default_rng(0)
    for label, grey in (("normal", 90), ("anomalous", 160)):
        (folder / label).mkdir(parents=True)
        for i in range(12):
            pixels = rng.normal(grey, 10, (40, 40)).clip(0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / label / f"{i}.png")
    return folder


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "SIGTERM"])
def test_the_command_stops_when_asked_and_says_how_to_go_on(number, tmp_path):
    """One process trains; the next is refused by name; a signal ends the first; a third goes on."""
    data, out = write_parts(tmp_path / "parts"), tmp_path / "run"
    words = [sys.executable, "-c", "from qgraft.cli import main; main()", "fit", str(data)]
    words += ["--epochs", "5000", "--folds", "2", "--seed", "1", "--out", str(out)]
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True) as process:
        wait_for(out / "data.json", process)
        with pytest.raises(RunError, match=rf"in use by process {process.pid} on .+ since 2"):
            open_run(out, {}, resume=True)
        with pytest.raises(RunError, match=f"in use by process {process.pid}"):
            remove_run(out)
        time.sleep(0.5)
        process.send_signal(number)
        asked = time.monotonic()
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert time.monotonic() - asked < 20  # 2 s and a step, on a machine that does nothing else
    assert errors.endswith(f"{out} goes on with the same command and --resume\nstopped\n")
    assert "Traceback" not in errors
    assert load_newest(out / "trunks" / "cm2" / "init-0.safetensors")
    settings = read_json(out / "config.json")
    assert open_run(out, settings, resume=True).folder == out


def wait_for(path, process):
    end = time.monotonic() + 120
    while not path.exists():
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < end
        time.sleep(0.02)


# --- two processes, two runs -------------------------------------------------------------------

HOLDER = """
import sys, time
from pathlib import Path
from qgraft.studies.lock import lock_folder

lock_folder(Path(sys.argv[1]))
print("locked", flush=True)
time.sleep(60)
"""


def test_the_lock_of_a_killed_process_is_taken_over(tmp_path):
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "locked\n"
        with pytest.raises(RunError, match=rf"^{tmp_path} is in use by process {process.pid} on "):
            lock.lock_folder(tmp_path)
        process.kill()
    lock.lock_folder(tmp_path)
    assert str(os.getpid()) in (tmp_path / lock.LOCK_FILE).read_text()
    lock.lock_folder(tmp_path)  # one process may open its own run again
    lock.unlock_folder(tmp_path)
    lock.unlock_folder(tmp_path)
    assert (tmp_path / lock.LOCK_FILE).read_text() == ""


def test_a_lock_that_says_nothing_is_still_a_lock(tmp_path):
    with (tmp_path / lock.LOCK_FILE).open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)  # another open file counts as another process
        with pytest.raises(RunError, match="is in use by another process; wait for it"):
            lock.lock_folder(tmp_path)


def test_a_folder_made_again_is_locked_again(tmp_path):
    folder = tmp_path / "run"
    for _ in range(2):
        folder.mkdir()
        lock.lock_folder(folder)
        shutil.rmtree(folder)
    assert lock._held[folder.resolve()]
    lock.unlock_folder(folder)


def test_a_file_system_without_locks_is_used_unlocked(tmp_path, monkeypatch):
    def unsupported(*arguments):
        raise OSError(errno.ENOTSUP, "not supported")

    monkeypatch.setattr(fcntl, "flock", unsupported)
    lock.lock_folder(tmp_path)
    assert tmp_path.resolve() not in lock._held


def test_a_refused_start_leaves_the_run_unlocked(tmp_path):
    opened(tmp_path / "run")
    lock.unlock_folder(tmp_path / "run")
    with pytest.raises(RunError, match="go on with it by --resume"):
        open_run(tmp_path / "run", {}, resume=False)
    assert (tmp_path / "run").resolve() not in lock._held


@pytest.mark.parametrize("name", ["data.json", "config.json", "timings.json"])
def test_files_that_are_no_objects_are_refused(name, tmp_path):
    native_heads(tmp_path)
    write_json(tmp_path / name, [1])
    with pytest.raises(RunError, match="was not written by a run"):
        keep_data(opened(tmp_path).folder, {"digest": "", "splits": {}})
    lock.unlock_folder(tmp_path)


def test_the_same_settings_give_the_same_bits(tmp_path, monkeypatch):
    rest_easy(monkeypatch)
    cache = os.environ["QGRAFT_CACHE"]
    whole_study(tmp_path / "first")
    expected = outcome(tmp_path / "first")
    assert list(Path(cache).rglob("*.safetensors"))
    for number in range(20 if NIGHTLY else 3):
        monkeypatch.setenv("QGRAFT_CACHE", cache if number % 2 else f"{cache}/cold-{number}")
        torch.set_num_threads(1 + number % 3 % 2)
        try:
            whole_study(tmp_path / str(number))
        finally:
            torch.set_num_threads(1)
        assert outcome(tmp_path / str(number)) == expected


def test_a_finished_run_carries_its_checksums_and_nothing_else(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / ".config.json.4711.part").write_text('{"half')
    whole_study(folder)
    sums = dict(line.split("  ")[::-1] for line in (folder / SUMS_FILE).read_text().splitlines())
    for name, expected in sums.items():
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == expected
    assert {"result.json", "data.json", "curves.json", "models.json"} < set(sums)
    assert "trunks/cm2/init-0.safetensors" in sums
    assert not [path for path in folder.rglob(".*") if path.name != lock.LOCK_FILE]
    (folder / ".result.json.12.part").write_text("{")  # a killed run may be removed as well
    remove_run(folder)
    assert not folder.exists()
