"""The QCNN transfer study on small data: rows, resume to the bit, report, command line."""

import json
import shutil
import signal
import sys

import numpy as np
import pytest
import torch
from torch import nn

from qgraft import cli
from qgraft.cli import qcnn as command
from qgraft.config import QcnnConfig, resolve
from qgraft.data.digits import TransferData
from qgraft.data.idx import Digits
from qgraft.errors import ConfigError, RunError
from qgraft.reports.qcnn import read_qcnn, sentences, write_qcnn_report
from qgraft.seeds import numpy_rng
from qgraft.studies.parallel import spreading
from qgraft.studies.qcnn import models_of, run_qcnn
from qgraft.studies.qcnn_cells import Contestant, PairTask, train_cell, tuned_rate
from qgraft.studies.qcnn_controls import conv_1d, conv_2d, grouped, linear
from qgraft.studies.qcnn_published import PUBLISHED_QCNN, published_accuracy
from qgraft.studies.qcnn_tasks import reduced_tasks
from qgraft.studies.run import open_run
from qgraft.training.loop import Samples
from qgraft.training.minibatch import StepRecipe
from qgraft.training.stopping import Stopped, ask_to_stop, stop_held_back, stop_on_signals


def images(name, n, classes):
    """Return noisy images whose bright column tells the class."""
    rng = numpy_rng(0, name)
    labels = np.arange(n) % classes
    pixels = rng.integers(0, 90, (n, 28, 28)).astype(np.uint8)
    for image, label in zip(pixels, labels, strict=True):
        image[:, 2 + 5 * (label % 5) : 6 + 5 * (label % 5)] += np.uint8(120)
    return Digits(pixels, labels.astype(np.int64))


DATA = TransferData(images("s", 60, 4), images("tr", 80, 4), images("te", 40, 4), 4)
SMALL = {
    "data": "made up",
    "ansatz": ("ttn", "cz"),
    "pooling": ("zx", "generalised"),
    "pairs": ((0, 1), (2, 3)),
    "seeds": 2,
    "steps": 6,
    "batch_size": 8,
    "trunk_epochs": 1,
    "controls": False,
}


def run(folder, *, resume=False, data=DATA, jobs=1, progress=None, **changes):
    config = resolve(QcnnConfig, {**SMALL, **changes})
    options = {"progress": progress} if progress else {}
    with spreading(jobs) as spread:
        settings = config.model_dump(mode="json")
        opened = open_run(folder, settings, resume=resume, spread=spread, **options)
        return run_qcnn(opened, data, config)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("qcnn") / "run"
    run(folder)
    return folder


def test_rows_hold_what_the_cells_reached(finished):
    result = json.loads((finished / "result.json").read_text())
    assert len(result["rows"]) == 2 * 2 * 2
    for row in result["rows"]:
        keys = {"ansatz", "pooling", "embedding", "pair", "accuracy_mean", "accuracy_std"}
        assert keys | {"n_seeds", "params"} <= set(row)
        assert row["accuracy_mean"] == pytest.approx(np.mean(row["accuracies"]), abs=1e-6)
        assert row["accuracy_std"] == pytest.approx(np.std(row["accuracies"], ddof=1), abs=1e-6)
    counts = {(row["ansatz"], row["pooling"]): row["params"] for row in result["rows"]}
    assert counts["ttn", "generalised"] == 24
    assert result["config"]["steps"] == 6
    assert {c["first"] for c in result["comparisons"]} == {"ttn generalised", "cz generalised"}


def test_a_stop_waits_for_one_step_and_not_for_the_head(tmp_path):
    steps = []

    def ask(module, inputs, outputs):
        steps.append(1)
        if len(steps) == 3:
            ask_to_stop(signal.SIGTERM)

    def build():
        head = nn.Linear(4, 2)
        head.register_forward_hook(ask)
        return head

    samples = Samples(torch.rand(20, 4), torch.arange(20) % 2)
    contestant = Contestant("one", build, StepRecipe(50, 4))
    with stop_on_signals(), stop_held_back(), pytest.raises(Stopped):
        train_cell(
            contestant, PairTask("pair", samples, samples), seed=0, n_seeds=1, folder=tmp_path
        )
    assert len(steps) == 3
    assert not list(tmp_path.iterdir())


class StoppedError(Exception):
    """Stands for a run that dies."""


@pytest.mark.parametrize(("stop_at", "jobs"), [(3, 1), (9, 2)])
def test_a_stopped_run_ends_with_the_identical_result(finished, tmp_path, stop_at, jobs):
    calls = 0

    def stop(done, total, note):
        nonlocal calls
        calls += 1
        if calls == stop_at:
            raise StoppedError

    folder = tmp_path / "run"
    with pytest.raises(StoppedError):
        run(folder, progress=stop, jobs=jobs)
    assert not (folder / "result.json").exists()
    run(folder, resume=True, jobs=jobs)
    for name in ("result.json", "curves.json", "data.json"):
        assert (folder / name).read_bytes() == (finished / name).read_bytes()
    for file in finished.rglob("*.safetensors"):
        assert (folder / file.relative_to(finished)).read_bytes() == file.read_bytes()


def test_a_run_takes_the_trunks_of_another(finished, tmp_path):
    result = run(tmp_path / "r", trunks=str(finished / "trunks"), ansatz=("ttn",))
    assert not (tmp_path / "r" / "trunks").exists()
    before = json.loads((finished / "result.json").read_text())["rows"]
    expected = [row for row in before if row["ansatz"] == "ttn"]
    assert result["rows"] == expected


def test_other_images_cannot_join_a_run(finished, tmp_path):
    folder = shutil.copytree(finished, tmp_path / "run")
    other = DATA._replace(test=images("other", 40, 4))
    with pytest.raises(RunError, match="the images or their splits changed"):
        run(folder, resume=True, data=other)


def test_a_cell_of_another_size_is_refused(finished, tmp_path):
    folder = shutil.copytree(finished, tmp_path / "run")
    (folder / "heads" / "ttn-zx-0-1.safetensors").write_bytes(
        (folder / "heads" / "ttn-zx-2-3.safetensors").read_bytes()
    )
    smaller = DATA._replace(test=images("te", 36, 4))
    with pytest.raises(RunError):
        run(folder, resume=True, data=smaller)


@pytest.mark.parametrize(
    ("inputs", "embedding", "width"), [("pca", "angle", 8), ("autoencoder", "compact-angle", 16)]
)
def test_pairs_without_transfer(tmp_path, inputs, embedding, width):
    tasks = reduced_tasks(DATA, ((0, 1),), inputs, width, seed=0)
    angles = tasks[0].training.inputs
    assert angles.shape == (40, width)
    assert float(angles.min()) == pytest.approx(0, abs=1e-5)
    assert float(angles.max()) == pytest.approx(np.pi, abs=1e-5)
    result = run(tmp_path / "r", inputs=inputs, embedding=embedding, ansatz=("ttn",), seeds=1)
    assert all(row["published"] is None for row in result["rows"])
    assert any("No transfer" in note for note in result["notes"])


def test_label_one_is_the_first_class():
    task = reduced_tasks(DATA, ((3, 2),), "pca", 4, seed=0)[0]
    assert task.name == "3-2"
    assert task.test.labels.tolist() == [0, 1] * 10


def test_controls_have_the_published_sizes():
    counts = [
        sum(p.numel() for p in build(256).parameters())
        for build in (conv_1d, conv_2d, linear, grouped)
    ]
    assert counts == [64, 76, 514, 66]
    assert all(b(256)(torch.randn(3, 256)).shape == (3, 2) for b in (conv_1d, conv_2d, grouped))


def easy_pair(n=60):
    labels = torch.arange(n) % 2
    inputs = torch.randn(n, 4, generator=torch.Generator().manual_seed(0)) + 2 * labels[:, None]
    return PairTask("0-1", Samples(inputs, labels), Samples(inputs[:20], labels[:20]))


def test_the_rate_is_chosen_without_the_test_images():
    contestant = Contestant("linear", lambda: linear(4), StepRecipe(20, 10))
    pair = easy_pair()
    spoiled = pair._replace(test=Samples(pair.test.inputs, 1 - pair.test.labels))
    rates = (1e-7, 0.1)
    assert tuned_rate(contestant, pair, seed=0, rates=rates) == 0.1
    assert tuned_rate(contestant, spoiled, seed=0, rates=rates) == 0.1


def test_the_published_classical_heads_see_the_first_images_only():
    pair = easy_pair()
    contestant = Contestant("linear", lambda: linear(4), StepRecipe(4, 5), first=10)
    scores = train_cell(contestant, pair, seed=0, n_seeds=1)
    inputs = pair.training.inputs.clone()
    inputs[10:] = 1e6
    other = pair._replace(training=Samples(inputs, pair.training.labels))
    again = train_cell(contestant, other, seed=0, n_seeds=1)
    np.testing.assert_array_equal(scores.costs, again.costs)


def test_published_values():
    assert PUBLISHED_QCNN["su4", "generalised"] == (99.3, 89.1, 88.1)
    assert len(PUBLISHED_QCNN) == 22
    assert published_accuracy((99.3, 89.1, 88.1), "2-3") == 0.891
    assert published_accuracy((99.3, 89.1, 88.1), "4-5") is None
    assert published_accuracy(None, "0-1") is None


def test_only_published_combinations_unless_asked():
    config = resolve(QcnnConfig, {**SMALL, "ansatz": ("su4", "ttn"), "pooling": ("trivial",)})
    assert models_of(config) == [("su4", "trivial")]
    every = config.model_copy(update={"published_only": False})
    assert models_of(every) == [("su4", "trivial"), ("ttn", "trivial")]


def test_the_report_says_what_was_found(finished):
    page = write_qcnn_report(finished).read_text()
    assert page.count("data:image/svg+xml") >= 3
    assert "<script" not in page
    assert "ttn" in page
    assert "ZX pooling" in " ".join(sentences(read_qcnn(finished)))
    rows = (finished / "tables" / "results.csv").read_text().splitlines()
    assert len(rows) == 1 + 8
    assert (finished / "tables" / "results.md").read_text().count("\n") == 2 + 4
    before = page, (finished / "figures" / "accuracy.svg").read_bytes()
    write_qcnn_report(finished)
    assert before == (
        (finished / "report.html").read_text(),
        (finished / "figures" / "accuracy.svg").read_bytes(),
    )


def test_a_damaged_result_is_explained(finished, tmp_path):
    folder = shutil.copytree(finished, tmp_path / "run")
    (folder / "result.json").write_text('{"rows": []}')
    with pytest.raises(RunError, match=r"result\.json: rows.*damaged or of another study"):
        read_qcnn(folder)


def call(monkeypatch, capsys, *typed):
    monkeypatch.setattr(sys, "argv", ["qgraft", "reproduce", "qcnn", *map(str, typed)])
    monkeypatch.setenv("COLUMNS", "200")
    try:
        cli.main()
        code = 0
    except SystemExit as stop:
        code = stop.code or 0
    printed = capsys.readouterr()
    return code, printed.out, printed.err


def test_the_quick_command(monkeypatch, capsys, tmp_path):
    small = {"ansatz": ("su4",), "seeds": 2, "steps": 3, "trunk_epochs": 1, "controls": True}
    monkeypatch.setattr(command, "QUICK", small)
    monkeypatch.setattr("qgraft.studies.qcnn_cells.RATES", (0.01,))
    typed = ("--quick", "--pairs", "8-9", "--out", tmp_path / "run", "--json", "-", "--jobs", 2)
    code, out, err = call(monkeypatch, capsys, *typed)
    assert code == 0, err
    result = json.loads(out)
    assert [row["pooling"] for row in result["rows"]] == ["zx", "generalised", "trivial"]
    assert {"1D-64", "2D-76", "logistic regression"} <= {r["model"] for r in result["controls"]}
    assert (tmp_path / "run" / "report.html").exists()
    assert "100 %" in err


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ((), "give either --data"),
        (("--quick", "--data", "."), "give either --data"),
        (("--quick", "--pairs", "0-1-2"), "--pairs '0-1-2': give pairs of digits"),
        (("--quick", "--pairs", "1-1"), "two different classes"),
        (("--quick", "--pairs", "4-5"), "there are no images of class 4"),
        (("--quick", "--ansatz", "su3"), "unknown convolution block 'su3'"),
        (("--quick", "--ansatz", "ttn", "--pooling", "trivial"), "none of these networks was"),
        (("--quick", "--jobs", 0), "--jobs 0: give 1 or more"),
        (("--quick", "--embedding", "phase"), "unknown embedding 'phase'"),
        (("--data", "/nowhere"), "/nowhere is not a folder"),
        (("--data", ".", "--seeds", 0), "seeds = 0"),
    ],
)
def test_wrong_commands_exit_with_2(monkeypatch, capsys, tmp_path, typed, message):
    monkeypatch.setattr(command, "QUICK", {**command.QUICK, "trunk_epochs": 1})
    code, _, err = call(monkeypatch, capsys, *typed, "--out", tmp_path / "run")
    assert code == 2
    assert message in err
    assert "Traceback" not in err


@pytest.mark.real_data
def test_a_real_pair(real_data, tmp_path):
    """Linear features of real digits are far above chance even for an untrained trunk."""
    from qgraft.data.digits import read_transfer_data

    data = read_transfer_data(real_data)
    result = run(
        tmp_path / "r", data=data, inputs="pca", embedding="angle", ansatz=("su4",),
        pooling=("generalised",), pairs=((0, 1),), seeds=2, steps=100, batch_size=50,
    )  # fmt: skip
    assert result["rows"][0]["accuracy_mean"] > 0.9


def test_errors_of_pairs_are_config_errors():
    with pytest.raises(ConfigError, match="pairs"):
        resolve(QcnnConfig, {**SMALL, "pairs": ((0, 1), (0, 1))})
