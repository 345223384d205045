"""Every study, killed at any write and resumed, ends with the same bits: weights, curves, result.

The trainings themselves are killed step by step in `test_crash.py`; here are the studies around
them, each as small as it gets, with all the ways of training that there are.
"""

import os
from functools import partial

import numpy as np
import pytest

from crash_runs import NIGHTLY, Camera, WatchedOs, outcome, rest_easy
from qgraft.config import DistillConfig, PhotonicConfig, QcnnConfig, SpiralsConfig, resolve
from qgraft.data.digits import TransferData
from qgraft.data.idx import Digits
from qgraft.seeds import numpy_rng
from qgraft.studies.distill import run_distill
from qgraft.studies.distill_tasks import _digit_task
from qgraft.studies.photonic import run_photonic
from qgraft.studies.qcnn import run_qcnn
from qgraft.studies.run import open_run
from qgraft.studies.spirals import run_spirals
from qgraft.training import checkpoint, kept


def digits(name, n, classes=2):
    rng = numpy_rng(0, name)
    labels = np.arange(n) % classes
    pixels = rng.integers(0, 90, (n, 28, 28)).astype(np.uint8)
    for image, label in zip(pixels, labels, strict=True):
        image[:, 12 * label : 12 * label + 12] += np.uint8(120)
    return Digits(pixels, labels.astype(np.int64))


SPIRALS = resolve(SpiralsConfig, {"shapes": ("moons",), "seeds": 1, "epochs": 1})
QCNN = resolve(
    QcnnConfig,
    {"data": "made up", "ansatz": ("ttn", "cz"), "pooling": ("zx", "generalised"),
     "pairs": ((0, 1),), "seeds": 1, "steps": 2, "batch_size": 4, "trunk_epochs": 2},
)  # fmt: skip
PHOTONIC = {"steps": (2, 3), "test_batches": 2, "source_steps": 2, "keep": (0, 1), "seeds": 1}
QC = resolve(PhotonicConfig, {"study": "photonic-qc", **PHOTONIC, "keep": (0, 1, 2, 3, 4)})
QQ = resolve(PhotonicConfig, {"study": "photonic-qq", **PHOTONIC})
DISTILL = resolve(
    DistillConfig,
    {"data": "made up", "datasets": ("made-up",), "per_class": 6, "seeds": 2, "epochs": 2,
     "batch_size": 12, "teacher_epochs": 2, "controls": False, "teachers": ("lenet", "uniform")},
)  # fmt: skip


def qcnn_study(run):
    data = TransferData(digits("s", 16), digits("tr", 20), digits("te", 12), 2)
    run_qcnn(run, data, QCNN)


def distill_study(run):
    task = _digit_task("made-up", "2", digits("a", 40), digits("b", 20), "clean", 6, 0)
    run_distill(run, [task], DISTILL)


STUDIES = {
    "spirals": (SPIRALS, partial(run_spirals, config=SPIRALS)),
    "qcnn": (QCNN, qcnn_study),
    "photonic-qc": (QC, partial(run_photonic, config=QC)),
    "photonic-qq": (QQ, partial(run_photonic, config=QQ)),
    "distill": (DISTILL, distill_study),
}


@pytest.mark.parametrize("name", STUDIES)
def test_a_study_killed_at_any_write_changes_no_bit(name, tmp_path, monkeypatch):
    config, body = STUDIES[name]

    def run(folder):
        resume = (folder / "config.json").exists()
        body(open_run(folder, config.model_dump(mode="json"), resume=resume))

    camera = Camera(tmp_path / "run", tmp_path / "album")
    monkeypatch.setattr(os, "fsync", lambda handle: None)
    with monkeypatch.context() as watched:
        watched.setattr(checkpoint, "os", WatchedOs(camera))
        watched.setattr(kept, "STORE_EVERY_S", 0.0)
        run(tmp_path / "run")
    expected = outcome(tmp_path / "run")
    assert camera.points >= 128
    rest_easy(monkeypatch)
    for state in camera.states[:: 1 if NIGHTLY else 6]:
        run(state)
        assert outcome(state) == expected
