"""Small trainings and a small study that tests of crashes stop, damage and resume."""

import os

import numpy as np
import torch
from torch import nn

from qgraft.config import SurfaceConfig, resolve
from qgraft.data.imageset import ImageSet
from qgraft.data.splits import Splits
from qgraft.heads.dressed import DressedHead
from qgraft.seeds import torch_stream
from qgraft.studies import classical, two_stage
from qgraft.studies.hybrid import Hybrid, train_hybrid
from qgraft.studies.lock import LOCK_FILE
from qgraft.studies.run import open_run
from qgraft.studies.two_stage import Plan, run_two_stage
from qgraft.training import kept
from qgraft.training.checkpoint import write_json
from qgraft.training.loop import Recipe, Samples, train

NIGHTLY = bool(os.environ.get("QGRAFT_NIGHTLY"))
RECIPE = Recipe(3, 0.01, 8)
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
            if path.suffix == ".part" or path.name == LOCK_FILE:
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
    history = train(model, samples, samples, RECIPE, seed=4, checkpoint=file)
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


def rest_easy(monkeypatch):
    """A resume need not be eager, nor wait for a disk that nobody will unplug."""
    monkeypatch.setattr(kept, "STORE_EVERY_S", 10.0)
    monkeypatch.setattr(os, "fsync", lambda handle: None)
