"""The new-defect study: nobody sees the left-out type early, numbers add up, resume, the page."""

import json
import shutil
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
import scipy.stats
import torch

from qgraft.config import NewDefectConfig, resolve
from qgraft.data.neu_det import load_photographs
from qgraft.data.synthetic import synthetic_steel
from qgraft.errors import ConfigError, DataError, RunError
from qgraft.reports.new_defect import read_result, sentences, write_new_defect_report
from qgraft.studies.new_defect import (
    assign_roles,
    draw_examples,
    make_scene,
    measure,
    new_head,
    run_new_defect,
    training_rows,
)
from qgraft.studies.new_defect_rows import comparison_rows, interval, result_rows
from qgraft.studies.run import open_run
from qgraft.training.loop import Samples
from qgraft.trunks.surface_cnn import surface_cnn

PHOTOGRAPHS = synthetic_steel(12, seed=5)
SMALL = {
    "data": "synthetic",
    "trunk": "cm2",
    "types": ("inclusion", "patches", "scratches"),
    "leave_out": ("scratches", "patches"),
    "shots": (2, 4),
    "seeds": 3,
    "epochs": 1,
    "head_epochs": 2,
    "folds": 3,
}


def small(**changes):
    return resolve(NewDefectConfig, {**SMALL, **changes})


def run(folder, config, *, resume=False, **options):
    opened = open_run(folder, config.model_dump(mode="json"), resume=resume, **options)
    return run_new_defect(opened, PHOTOGRAPHS, config)


@pytest.fixture(scope="module")
def scene():
    return make_scene(PHOTOGRAPHS, small())


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Return the folder of one finished run."""
    folder = tmp_path_factory.mktemp("runs") / "new-defect"
    run(folder, small())
    return folder


@pytest.mark.parametrize("left_out", SMALL["types"])
def test_the_left_out_type_is_nowhere_but_in_the_pool_and_the_hold_out(scene, left_out):
    roles = assign_roles(scene, left_out, 4)
    for part in (roles.train, roles.select, roles.replay, roles.held_old):
        assert len(part)
        assert left_out not in scene.types[part]
    assert set(scene.types[roles.held_new]) == {left_out}
    groups = scene.images.groups
    held = set(groups[roles.held_old]) | set(groups[roles.held_new])
    assert not held & (set(groups[roles.replay]) | set(roles.pool))
    assert set(roles.replay) == set(roles.train) | set(roles.select)
    assert set(scene.images.labels[roles.held_new]) == {0, 1}


def test_a_copy_under_another_type_is_left_out_too():
    scratches = PHOTOGRAPHS.defects.index("scratches")
    inclusion = PHOTOGRAPHS.defects.index("inclusion")
    images = list(PHOTOGRAPHS.images)
    images[inclusion] = images[scratches]
    scene = make_scene(replace(PHOTOGRAPHS, images=tuple(images)), small())
    roles = assign_roles(scene, "scratches", 4)
    twin = scene.images.groups == scene.images.groups[np.flatnonzero(
        [name.startswith(PHOTOGRAPHS.names[scratches] + "#") for name in scene.images.names]
    )[0]]  # fmt: skip
    assert set(scene.types[twin]) == {"scratches", "inclusion"}
    seen = np.concatenate([roles.train, roles.select, roles.replay, roles.held_old])
    assert not twin[seen].any()


def test_photographs_that_show_several_types_are_not_used():
    mixed = PHOTOGRAPHS.defects.index("inclusion")
    boxes = list(PHOTOGRAPHS.boxes)
    boxes[mixed] = (*boxes[mixed], replace(boxes[mixed][0], label="scratches"))
    scene = make_scene(replace(PHOTOGRAPHS, boxes=tuple(boxes)), small())
    name = PHOTOGRAPHS.names[mixed]
    assert not any(image.startswith(f"{name}#") for image in scene.images.names)
    assert any(image.startswith("inclusion_2#") for image in scene.images.names)


def test_examples_are_whole_photographs_and_nested(scene):
    roles = assign_roles(scene, "scratches", 6)
    drawn = [draw_examples(scene, roles, shots, seed=9) for shots in (2, 4, 6)]
    for shots, index in zip((2, 4, 6), drawn, strict=True):
        assert len(np.unique(scene.images.groups[index])) == shots
        assert np.bincount(scene.images.labels[index]).tolist() == [shots, shots]
    assert set(drawn[0]) < set(drawn[1]) < set(drawn[2])
    other = draw_examples(scene, roles, 4, seed=10)
    assert set(other) != set(drawn[1])


def test_new_examples_weigh_as_much_as_an_old_type(scene):
    roles = assign_roles(scene, "scratches", 4)
    np.testing.assert_array_equal(training_rows(scene, roles, 0, 1), roles.replay)
    rows = training_rows(scene, roles, 2, 1)
    new = rows[len(roles.replay) :]
    per_type = len(roles.replay) / 2
    assert abs(len(new) - per_type) <= 2  # half an example's images
    assert set(new) == set(draw_examples(scene, roles, 2, 1))


def test_measures_count_what_they_say():
    class Constant(torch.nn.Module):
        def forward(self, features):
            return features

    logits = torch.tensor([[0.0, 1.0], [1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [0.0, 1.0]])
    samples = Samples(logits, torch.tensor([1, 1, 0, 0, 1]))
    scene_roles = assign_roles(make_scene(PHOTOGRAPHS, small()), "patches", 2)
    roles = scene_roles._replace(held_new=np.array([0, 1, 2, 3]), held_old=np.array([3, 4]))
    found = measure(Constant(), samples, roles, 5, 1.5)
    assert found == {
        "shots": 5, "recall_new": 0.5, "false_alarms_new": 0.5, "f1_old": 1.0, "recall_old": 1.0,
        "seconds": 1.5,
    }  # fmt: skip


@pytest.mark.parametrize(("cut", "removed"), [("all", 271_602), (3, 9_330), (2, 1_074)])
def test_the_dense_head_is_what_the_cut_removes(cut, removed):
    head = new_head("dense", surface_cnn("cm2"), small(replace_last=cut), seed=0)
    assert sum(p.numel() for p in head.parameters()) == removed  # 2409.00228, Table I
    again = new_head("dense", surface_cnn("cm2"), small(replace_last=cut), seed=0)
    assert all(
        torch.equal(a, b) for a, b in zip(head.parameters(), again.parameters(), strict=True)
    )
    linear = new_head("linear", surface_cnn("cm2"), small(), seed=0)
    assert [tuple(p.shape) for p in linear.parameters()] == [(2, 2048), (2,)]


def test_the_result_is_what_the_units_measured(finished):
    result = json.loads((finished / "result.json").read_text())
    rows = result["rows"]
    assert len(rows) == 3 * 2 * 3  # two types and all, heads, numbers of examples
    for row in rows:
        if row["left_out"] == "all types":
            continue
        files = [
            json.loads(
                (finished / "heads" / row["left_out"] / f"{row['head']}-{k}.json").read_text()
            )
            for k in range(3)
        ]
        level = [0, 2, 4].index(row["shots"])
        f1 = np.array([[unit["f1_old"] for unit in units] for units in files])
        assert row["f1_old_mean"] == pytest.approx(f1[:, level].mean())
        assert row["f1_old_loss_mean"] == pytest.approx((f1[:, 0] - f1[:, level]).mean())
        recall = [units[level]["recall_new"] for units in files]
        assert row["recall_new_mean"] == pytest.approx(np.mean(recall))
        right = [(u[level]["recall_new"] + 1 - u[level]["false_alarms_new"]) / 2 for u in files]
        assert row["balanced_new_mean"] == pytest.approx(np.mean(right))
        assert row["recall_new_std"] == pytest.approx(np.std(recall, ddof=1))
        assert row["n_seeds"] == 3
    assert {row["head"]: row["head_params"] for row in rows} == {
        "dressed": 10_302,
        "dense": 271_602,
    }
    assert not (finished / "trunks" / "inclusion.safetensors").exists()


def unit(shots, **values):
    blank = dict.fromkeys(
        ("recall_new", "false_alarms_new", "f1_old", "recall_old", "seconds"), 0.5
    )
    return {"shots": shots, **blank, **values}


def test_differences_are_paired_over_the_seeds():
    base = np.array([0.1, 0.5, 0.9, 0.3])
    measures = {
        ("x", "a"): [[unit(0), unit(5, recall_new=b + 0.1)] for b in base],
        ("x", "b"): [[unit(0), unit(5, recall_new=b)] for b in np.add(base, [0, 0.01, 0, 0.02])],
    }
    (nothing, gap) = comparison_rows(measures, ("a", "b"))
    assert nothing["recall_new_difference"] == 0
    differences = np.array([0.1, 0.09, 0.1, 0.08])
    assert gap["recall_new_difference"] == pytest.approx(differences.mean())
    reference = scipy.stats.ttest_1samp(differences, 0.0).confidence_interval(0.95)
    assert gap["recall_new_interval"] == pytest.approx([reference.low, reference.high])
    assert interval(np.array([0.1])) is None
    assert interval(np.array([0.1, 0.1])) == [0.1, 0.1]
    rows = result_rows(measures, {"a": 1, "b": 2})
    assert [(row["left_out"], row["head"], row["shots"]) for row in rows] == [
        ("x", "a", 0), ("x", "a", 5), ("x", "b", 0), ("x", "b", 5),
    ]  # fmt: skip


class StoppedError(Exception):
    """Stands for a run that dies."""


def without_seconds(value):
    if isinstance(value, dict):
        return {k: without_seconds(v) for k, v in value.items() if "seconds" not in k}
    return [without_seconds(v) for v in value] if isinstance(value, list) else value


def test_a_stopped_run_ends_with_the_same_scores(finished, tmp_path):
    calls = 0

    def stop(done, total, note):
        nonlocal calls
        calls += 1
        if calls == 9:
            raise StoppedError

    folder = tmp_path / "run"
    with pytest.raises(StoppedError):
        run(folder, small(), progress=stop)
    assert not (folder / "result.json").exists()
    kept = (folder / "heads" / "scratches" / "dressed-0.json").read_text()
    result = run(folder, small(), resume=True)
    assert (folder / "heads" / "scratches" / "dressed-0.json").read_text() == kept
    whole = json.loads((finished / "result.json").read_text())
    assert without_seconds(result) == without_seconds(whole)


@pytest.mark.parametrize(
    ("changes", "kind", "message"),
    [
        (
            {"types": ("patches", "rust")},
            DataError,
            r"no photograph of type 'rust'; types there: cr",
        ),
        ({"types": ("patches",), "leave_out": None}, ConfigError, r"at least 2 types, got patches"),
        ({"leave_out": ("crazing",)}, ConfigError, r"cannot leave out 'crazing', .*; types: incl"),
        ({"shots": (2, 99)}, DataError, r"99 examples of 'scratches' .* only \d+ photographs"),
        ({"heads": ("dresed",)}, ConfigError, r"unknown head 'dresed'; did you mean 'dressed'"),
    ],
)
def test_mistakes_are_found_before_training(tmp_path, changes, kind, message):
    with pytest.raises(kind, match=message):
        run(tmp_path / "run", small(**changes))
    assert not (tmp_path / "run" / "trunks").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"shots": (5, 5)}, r"shots = .*name each one once"),
        ({"shots": (0,)}, r"shots\.0 = 0"),
        ({"heads": ()}, r"heads = \(\)"),
        ({"trunk": "vgg"}, r"trunk = 'vgg'"),
        ({"seed_s": 3}, r"unknown setting 'seed_s'; did you mean 'seeds'"),
    ],
)
def test_wrong_settings_are_named(changes, message):
    with pytest.raises(ConfigError, match=message):
        small(**changes)


def test_a_given_network_is_used_as_it_is(finished, tmp_path):
    weights = finished / "trunks" / "scratches.safetensors"
    config = small(weights=str(weights), leave_out=("scratches",))
    result = run(tmp_path / "run", config)
    assert not (tmp_path / "run" / "trunks").exists()
    trained = json.loads((finished / "result.json").read_text())["rows"]
    same = [row for row in trained if row["left_out"] == "scratches"]
    assert without_seconds(result["rows"]) == without_seconds(same)
    assert any("--weights" in note for note in result["notes"])


class Tags(HTMLParser):
    """Collects the names of all elements."""

    def __init__(self):
        super().__init__()
        self.seen = set()

    def handle_starttag(self, tag, attrs):
        self.seen.add(tag)


def test_the_page_says_what_the_numbers_say(finished):
    page = write_new_defect_report(finished).read_text()
    result = read_result(finished)
    row = result["rows"][-1]
    said = sentences(result)
    assert f"With 4 examples the dense head finds {100 * row['recall_new_mean']:.1f} %" in said[1]
    assert said[2].startswith("In balanced accuracy on the new type the dressed head is")
    assert all(sentence.replace("'", "&#39;") in page for sentence in said)
    assert (finished / "figures" / "few-examples.svg").read_text().startswith("<?xml")
    table = (finished / "tables" / "results.md").read_text().splitlines()
    assert len(table) == 2 + len(result["rows"])
    again = write_new_defect_report(finished).read_text()
    assert again == page


def test_hostile_names_do_not_become_markup(finished, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    name = "=<script>alert(1)</script>$x^2$"
    result = json.loads((folder / "result.json").read_text())
    for row in result["rows"] + result["comparisons"]:
        row["left_out"] = name
    (folder / "result.json").write_text(json.dumps(result))
    tags = Tags()
    tags.feed(write_new_defect_report(folder).read_text())
    assert "script" not in tags.seen
    assert (folder / "tables" / "results.csv").read_text().count("'=<script>") == len(
        result["rows"]
    )


def test_other_results_are_refused(tmp_path):
    with pytest.raises(RunError, match=r"result\.json is missing"):
        read_result(tmp_path)
    (tmp_path / "result.json").write_text('{"rows": [{}], "comparisons": [], "notes": []}')
    with pytest.raises(RunError, match=r"rows\.0\.left_out: .*damaged or of another study"):
        read_result(tmp_path)


@pytest.mark.real_data
def test_neu_det_has_enough_photographs_of_each_published_type(real_data):
    photographs = load_photographs(real_data / "neu-det")
    scene = make_scene(photographs, resolve(NewDefectConfig, {"data": "neu-det"}))
    for left_out in sorted(set(scene.types)):
        roles = assign_roles(scene, left_out, 50)
        assert len(roles.pool) >= 100
        assert len(roles.held_new) >= 60
