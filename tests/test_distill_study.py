"""The distillation study on small data: rows, pairing, resume to the bit, report, command line."""

import json
import shutil
import sys
from typing import Any

import numpy as np
import pytest
import torch

from qgraft import cli
from qgraft.config import DistillConfig, resolve
from qgraft.data.idx import Digits
from qgraft.data.imageset import ImageSet
from qgraft.data.splits import clean_splits
from qgraft.errors import ConfigError, DataError, RunError
from qgraft.evaluation.statistics import Interval
from qgraft.reports.distill import read_distill, sentences, write_distill_report
from qgraft.seeds import numpy_rng
from qgraft.studies.distill import check_settings, run_distill
from qgraft.studies.distill_published import (
    PUBLISHED_STUDENTS,
    published_student,
    published_teacher,
)
from qgraft.studies.distill_rows import _possible, half_width
from qgraft.studies.distill_students import STUDENTS, build_student, student
from qgraft.studies.distill_tasks import _digit_task, digit_tasks, image_task
from qgraft.studies.run import open_run
from qgraft.training.distillation import UNLABELLED


def digits(name, n, classes=6):
    """Return noisy images whose bright column tells the class."""
    rng = numpy_rng(0, name)
    labels = np.arange(n) % classes
    pixels = rng.integers(0, 90, (n, 28, 28)).astype(np.uint8)
    for image, label in zip(pixels, labels, strict=True):
        image[:, 4 * label : 4 * label + 4] += np.uint8(120)
    return Digits(pixels, labels.astype(np.int64))


def task(protocol: Any = "clean", per_class: Any = 6, unlabelled=0):
    training, test = digits("a", 90), digits("b", 60)
    return _digit_task("made-up", "6", training, test, protocol, per_class, unlabelled)


SMALL = {
    "data": "made up",
    "datasets": ("made-up",),
    "per_class": 6,
    "seeds": 2,
    "epochs": 2,
    "batch_size": 12,
    "teacher_epochs": 1,
    "controls": False,
}


def run(folder, *, resume=False, tasks=None, progress=None, **changes):
    config = resolve(DistillConfig, {**SMALL, **changes})
    options = {"progress": progress} if progress else {}
    opened = open_run(folder, config.model_dump(mode="json"), resume=resume, **options)
    return run_distill(opened, tasks or [task()], config)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("distill") / "run"
    run(folder, teachers=("lenet", "uniform"))
    return folder


def test_rows_hold_what_the_students_reached(finished):
    result = json.loads((finished / "result.json").read_text())
    rows = {row["teacher"]: row for row in result["rows"]}
    assert list(rows) == ["none", "lenet", "uniform"]
    keys = {"dataset", "classes", "n_qubits", "teacher", "student", "accuracy_mean",
            "accuracy_std", "gain_mean", "gain_low", "gain_high"}  # fmt: skip
    for row in rows.values():
        assert keys <= set(row)
        assert row["accuracy_mean"] == pytest.approx(np.mean(row["accuracies"]), abs=1e-6)
        assert row["params"] == 21_483
    gains = np.subtract(rows["lenet"]["accuracies"], rows["none"]["accuracies"])
    assert rows["lenet"]["gain_mean"] == pytest.approx(gains.mean(), abs=2e-6)
    assert rows["none"]["gain_mean"] is None
    assert [t["teacher"] for t in result["teachers"]] == ["lenet", "uniform"]
    assert result["gains"][0]["settings"] == 1
    assert result["data"]["made-up-6"]["training"] == 36


class StoppedError(Exception):
    """Stands for a run that dies."""


@pytest.mark.parametrize("stop_at", [1, 3, 6])
def test_a_stopped_run_ends_with_the_identical_result(finished, tmp_path, stop_at):
    calls = 0

    def stop(done, total, note):
        nonlocal calls
        calls += 1
        if calls == stop_at:
            raise StoppedError

    folder = tmp_path / "run"
    with pytest.raises(StoppedError):
        run(folder, progress=stop, teachers=("lenet", "uniform"))
    assert not (folder / "result.json").exists()
    run(folder, resume=True, teachers=("lenet", "uniform"))
    for name in ("result.json", "curves.json", "data.json"):
        assert (folder / name).read_bytes() == (finished / name).read_bytes()
    for file in finished.rglob("heads/**/*.safetensors"):
        assert (folder / file.relative_to(finished)).read_bytes() == file.read_bytes()


def test_alpha_zero_is_the_student_without_a_teacher(finished, tmp_path):
    result = run(tmp_path / "r", alpha=0.0, trunks=str(finished / "trunks"))
    none, lenet = result["rows"]
    assert none["accuracies"] == lenet["accuracies"]
    assert lenet["gain_mean"] == 0


def test_teachers_are_not_trained_twice(finished, tmp_path):
    result = run(tmp_path / "r", trunks=str(finished / "trunks"))
    assert not (tmp_path / "r" / "trunks").exists()
    before = json.loads((finished / "result.json").read_text())
    assert result["rows"] == before["rows"][:2]
    # its epochs were scored elsewhere, perhaps on other images
    assert result["teachers"] == [{**before["teachers"][0], "best_accuracy": None}]
    assert before["teachers"][0]["best_accuracy"] is not None


def test_every_control_runs_and_is_marked(finished, tmp_path):
    result = run(tmp_path / "r", trunks=str(finished / "trunks"), controls=True, epochs=1)
    found = {(row["student"], row["teacher"]): row["is_control"] for row in result["rows"]}
    names = ("v1-linear", "v1-entangling", "v1-no-circuit", "classical")
    assert found == {
        ("v1", "none"): False, ("v1", "lenet"): False, ("v1", "uniform"): False,
        **{(name, teacher): True for name in names for teacher in ("none", "lenet")},
    }  # fmt: skip
    sizes = {row["student"]: row["params"] for row in result["rows"]}
    assert sizes["classical"] <= sizes["v1"]


def test_paper_protocol_selects_on_the_test_images_and_says_so(finished, tmp_path):
    paper = {"protocol": "paper", "form": "published", "shots": "published",
             "published_gradient": True, "batch_size": 1, "seeds": 1, "epochs": 1}  # fmt: skip
    made = task("paper")
    assert made.validation is made.test
    result = run(tmp_path / "r", tasks=[made], trunks=str(finished / "trunks"), **paper)
    assert any("the test images choose the epoch" in note for note in result["notes"])
    assert result["rows"][1]["gain_low"] is None
    assert "single run" in result["gains"][0]["sentence"]


def test_parts_do_not_overlap():
    made = task()
    seen = {image.numpy().tobytes() for image in made.training.inputs}
    assert not seen & {image.numpy().tobytes() for image in made.validation.inputs}
    assert len(made.validation.labels) == 12
    everything = task(per_class="all")
    assert len(everything.training.labels) + len(everything.validation.labels) == 90
    with pytest.raises(DataError, match="has 15 images where more than 15 are needed"):
        task(per_class=15)


def test_unlabelled_images_join_without_their_labels():
    made, plain = task(unlabelled=20), task()
    assert made.training.labels.tolist() == [*plain.training.labels.tolist(), *[UNLABELLED] * 20]
    pixels = [image.numpy().tobytes() for image in made.training.inputs]
    assert len(set(pixels)) == 56
    assert not set(pixels) & {image.numpy().tobytes() for image in made.validation.inputs}
    assert made.described()["unlabelled"] == 20
    places = [pixels.index(image.numpy().tobytes()) for image in made.labels_only.inputs]
    assert places == [*range(36), *range(20)]  # the labelled again, as many steps
    assert torch.equal(made.labels_only.labels, made.training.labels[places])
    assert plain.labels_only is plain.training
    with pytest.raises(DataError, match=r"43 unlabelled .* only 42 training images .* --per-class"):
        task(unlabelled=43)


def test_hidden_labels_change_nothing():
    training, test = digits("a", 90), digits("b", 60)
    made = _digit_task("made-up", "6", training, test, "clean", 6, 20)
    other = training.labels.copy()
    other[48:] = numpy_rng(1, "other").permutation(other[48:])  # after labelled and validation
    again = _digit_task("made-up", "6", Digits(training.images, other), test, "clean", 6, 20)
    assert torch.equal(made.training.inputs, again.training.inputs)
    assert torch.equal(made.training.labels, again.training.labels)


def test_a_teacher_speaks_about_unlabelled_images(finished, tmp_path):
    settings = {"trunks": str(finished / "trunks"), "unlabelled": 12, "students": ("classical",)}
    made = task(unlabelled=12)
    result = run(tmp_path / "r", tasks=[made], batch_size=12, **settings)
    assert [row["teacher"] for row in result["rows"]] == ["none", "lenet"]
    assert any("12 further training images" in note for note in result["notes"])
    alone = run(tmp_path / "s", tasks=[made], batch_size=12, seeds=1, **settings)
    assert alone["rows"][1]["accuracies"][0] == result["rows"][1]["accuracies"][0]


def test_circuits_teach_circuits_and_classical_networks(tmp_path):
    for students in (("v2-fc-angle",), ("classical",), ("matched",)):
        result = run(
            tmp_path / students[0], students=students, teachers=("v2-fc-amplitude:4",),
            qubits=(2,), batch_size=18,
        )  # fmt: skip
        assert [row["teacher"] for row in result["rows"]] == ["none", "v2-fc-amplitude:4"]
        assert result["teachers"][0]["accuracy"] is not None


def test_logits_from_a_file_teach_as_the_network_does(finished, tmp_path):
    from qgraft.studies.distill_teachers import hear

    config = resolve(DistillConfig, {**SMALL, "trunks": str(finished / "trunks")})
    opened = open_run(tmp_path / "r", config.model_dump(mode="json"), resume=False)
    logits = hear(opened, "lenet", task(), config).taught.logits
    file = tmp_path / "said.npz"
    np.savez(file, logits=logits.numpy())
    result = run(tmp_path / "s", teachers=(str(file),))
    before = json.loads((finished / "result.json").read_text())["rows"][1]
    assert result["rows"][1]["accuracies"] == before["accuracies"]
    assert result["rows"][1]["teacher"] == "said"


def test_ensembles_of_both_published_teachers(tmp_path, monkeypatch):
    from qgraft.trunks import lenet

    monkeypatch.setitem(lenet.DIGIT_NETWORKS, "alexnet", lenet.lenet5)  # the real one is large
    result = run(tmp_path / "r", teachers=("ensemble", "ensemble-probabilities"), seeds=1, epochs=1)
    assert [t["teacher"] for t in result["teachers"]] == ["ensemble", "ensemble-probabilities"]
    assert result["teachers"][0]["params"] == 2 * 44_086


def test_a_trunk_teaches_a_head_on_its_features(tmp_path):
    rng = numpy_rng(0, "parts")
    labels = np.arange(40) % 2
    pixels = rng.integers(0, 60, (40, 200, 200)).astype(np.uint8)
    pixels[labels == 1, 80:120] += 150
    names = tuple(map(str, range(40)))
    images = ImageSet(pixels, labels.astype(np.int64), np.arange(40), names)
    made = image_task(images, clean_splits(images, n_folds=2, seed=0), name="parts")
    settings = {"datasets": ("parts",), "students": ("dressed",), "teachers": ("cm3",),
                "qubits": (5,), "per_class": "all"}  # fmt: skip
    result = run(tmp_path / "r", tasks=[made], **settings)
    assert result["rows"][1]["params"] == 8192 * 5 + 5 + 45 + 12
    assert result["teachers"][0]["params"] == 1_125_842
    splits = clean_splits(images, n_folds=2, seed=0)
    few = image_task(images, splits, name="parts", per_class=4, unlabelled=3)
    assert few.training.labels.tolist().count(UNLABELLED) == 3
    assert len(few.training.labels) == 11
    assert torch.equal(few.teaching.inputs, made.teaching.inputs)
    with pytest.raises(ConfigError, match="heads take the features of one network"):
        run(tmp_path / "s", tasks=[made], **{**settings, "students": ("dressed", "classical")})


@pytest.mark.parametrize("name", STUDENTS)
def test_every_student_can_be_built(name):
    config = resolve(DistillConfig, SMALL)
    made = task(per_class="all")
    n_qubits = 2 if "pca" in name or name.startswith("v2") else 4
    network = build_student(student(name, n_qubits), made, config)
    logits = network(made.test.inputs[:3].float() / 255)
    assert logits.shape[0] == 3
    assert logits.shape[1] >= 6
    assert torch.isfinite(logits).all()


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"students": ("v1-liner",)}, "unknown student 'v1-liner'; did you mean 'v1-linear'"),
        ({"teachers": ("resnet",)}, "unknown teacher 'resnet'; use alexnet, cm1"),
        ({"teachers": ("v2-fc-angle:99",)}, "unknown teacher"),
        ({"schedule": "cosine"}, "a schedule and last_temperature go together"),
        ({"alpha": 2}, "alpha = 2"),
        ({"qubits": (3, 3)}, "name each one once"),
        ({"temprature": 2}, "did you mean 'temperature'"),
    ],
)
def test_wrong_settings(changes, says):
    with pytest.raises(ConfigError, match=says):
        check_settings(resolve(DistillConfig, {**SMALL, **changes}))


def test_a_cell_of_another_size_is_refused(finished, tmp_path):
    folder = shutil.copytree(finished, tmp_path / "run")
    (folder / "config.json").unlink()
    with pytest.raises(RunError, match="not those of 3 students"):
        run(folder, seeds=3, teachers=("lenet", "uniform"))


def test_intervals_end_where_accuracies_do():
    interval = _possible(Interval(0.1, -2.0, 3.3), np.array([0.8, 1.0]))
    assert interval == pytest.approx((0.1, -0.9, 0.1))
    assert _possible(Interval(0.1, 0.0, 0.05), np.array([0.5])) == (0.1, 0.0, 0.05)


def test_published_values():
    v1 = [values for key, values in PUBLISHED_STUDENTS.items() if key[0] == "mnist"]
    gains = [row[t] - row["none"] for row in v1 for t in ("lenet", "alexnet", "ensemble")]
    assert np.mean(gains) == pytest.approx(0.76, abs=0.005)
    fashion = [values for key, values in PUBLISHED_STUDENTS.items() if key[0] != "mnist"]
    gains = [row[t] - row["none"] for row in fashion for t in ("lenet", "alexnet", "ensemble")]
    assert np.mean(gains) == pytest.approx(5.20, abs=0.01)
    assert np.mean(np.maximum(gains, 0)) == pytest.approx(5.40, abs=0.01)
    assert published_student("mnist", "0-5", 3, "v1", "lenet") == 0.9789
    assert published_student("mnist", "all", 8, "v2-fc-amplitude", "lenet") == 0.902
    assert published_student("mnist", "all", 8, "v2-fc-amplitude", "none") is None
    assert published_student("mnist", "0-5", 5, "v1", "lenet") is None
    assert published_teacher("fashion-mnist", "0-5", "lenet") == 0.9157
    assert half_width(0.9656, 900) == pytest.approx(0.0119, abs=1e-4)


def test_report(finished):
    page = write_distill_report(finished).read_text()
    assert "Distillation from classical to quantum networks" in page
    assert "{{" not in page
    assert "label smoothing" in page
    for name in ("accuracy", "gain", "validation"):
        assert (finished / "figures" / f"{name}.svg").read_text().startswith("<?xml")
    table = (finished / "tables" / "results.md").read_text()
    assert table.count("| v1 |") == 3
    assert (finished / "tables" / "results.csv").read_text().startswith("dataset,classes,n_qubits")
    said = " ".join(sentences(read_distill(finished)))
    assert "On made-up a taught student is" in said


def test_damaged_results_are_named(finished, tmp_path):
    folder = shutil.copytree(finished, tmp_path / "run")
    (folder / "result.json").write_text('{"rows": []}')
    with pytest.raises(RunError, match="damaged or of another study"):
        write_distill_report(folder)


def call(monkeypatch, *words):
    monkeypatch.setattr(sys, "argv", ["qgraft", *words])
    try:
        cli.main()
    except SystemExit as end:
        return end.code
    return 0


def test_quick_from_the_command_line(tmp_path, monkeypatch, capsys):
    out = tmp_path / "run"
    words = ("reproduce", "distill", "--quick", "--seeds", "1", "--epochs", "1", "--teacher-epochs",
             "1", "--out", str(out), "--json", "-")  # fmt: skip
    assert call(monkeypatch, *words) == 0
    result = json.loads(capsys.readouterr().out)
    assert [row["teacher"] for row in result["rows"]] == ["none", "lenet"]
    assert (out / "report.html").exists()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("reproduce", "distill"), "give either --data"),
        (("reproduce", "distill", "--data", "no"), "no is not a folder"),
        (("reproduce", "distill", "--quick", "--qubits", "x"), "give numbers separated by commas"),
        (("reproduce", "distill", "--quick", "--per-class", "few"), "per_class"),
        (
            ("reproduce", "distill", "--data", "no", "--version", "v2", "--protocol", "paper"),
            "the recipe of version 2 was not published",
        ),
        (("distill", "--data", "no", "--teacher", "cm3", "--student", "dressd"), "did you mean"),
    ],
)
def test_mistakes_on_the_command_line(tmp_path, monkeypatch, capsys, words, says):
    monkeypatch.chdir(tmp_path)
    assert call(monkeypatch, *words) == 2
    assert says in capsys.readouterr().err


@pytest.mark.real_data
def test_real_tasks_have_the_published_sizes(real_data):
    found = digit_tasks(
        real_data, ("mnist", "fashion-mnist"), ("0-5", "0-7"), protocol="paper", per_class=150
    )
    sizes = [(len(t.training.labels), len(t.test.labels)) for t in found]
    assert sizes == [(900, 900), (1200, 1200)] * 2
    assert [len(t.teaching.labels) for t in found] == [36_017, 48_200, 36_000, 48_000]
