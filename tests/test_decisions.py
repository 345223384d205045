"""From a finished run to decisions: validation scores are honest, prediction follows the rule."""

import json

import numpy as np
import pytest
from PIL import Image
from pydantic import TypeAdapter, ValidationError

from qgraft.config import SurfaceConfig, resolve
from qgraft.data.synthetic import synthetic_steel
from qgraft.errors import ConfigError, DataError, RunError
from qgraft.evaluation.calibration import Calibration
from qgraft.evaluation.thresholds import choose_threshold, parse_rule
from qgraft.reports import curves
from qgraft.reports.rundir import Decisions
from qgraft.studies.decisions import THRESHOLDS_FILE, read_decision
from qgraft.studies.predict import load_fitted, predict
from qgraft.studies.run import open_run
from qgraft.studies.surface import run_surface

KEY = "CM-2/QTL-M-3"


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Return the folder of a small finished run, and some images."""
    folder = tmp_path_factory.mktemp("runs")
    photographs = synthetic_steel(7, seed=3)
    config = resolve(
        SurfaceConfig,
        {"data": "synthetic", "models": ("cm2",), "inits": 1, "epochs": 2, "head_epochs": 4,
         "folds": 3, "per_class": 36},
    )  # fmt: skip
    run = open_run(folder / "run", config.model_dump(mode="json"), resume=False)
    run_surface(run, photographs, config)
    paths = []
    for number in range(6):
        paths.append(folder / f"{number}.png")
        Image.fromarray(photographs.images[number]).save(paths[-1])
    return folder / "run", paths


def stored(folder):
    return json.loads((folder / THRESHOLDS_FILE).read_text())


def scored(folder, paths, **options):
    return list(predict(load_fitted(folder, KEY, **options), paths))


def test_validation_scores_are_of_the_selection_part_only(finished):
    folder, _ = finished
    splits = json.loads((folder / "data.json").read_text())["splits"]
    facts = stored(folder)
    assert list(facts) == [f"CM-2/QTL-M-{k}" for k in (1, 2, 3)]
    for fact in facts.values():
        assert len(fact["scores"]) == len(fact["labels"]) == len(splits["select"])
        assert not set(splits["select"]) & set(splits["train"])
        held = fact["holdout"]["quality"]["as scored"]
        assert sum(held["curve"]["count"]) == len(splits["holdout"])


@pytest.mark.parametrize("rule", ["f1", "recall:0.9", "false-alarms:0.3", "0.37"])
def test_predictions_follow_the_threshold(finished, rule):
    folder, paths = finished
    facts = stored(folder)[KEY]
    threshold = choose_threshold(
        parse_rule(rule), np.array(facts["scores"]), np.array(facts["labels"])
    )
    rows = scored(folder, paths, threshold=rule)
    assert [row["pred_label"] for row in rows] == [int(r["pred_score"] >= threshold) for r in rows]
    plain = [row["pred_score"] for row in scored(folder, paths)]
    # a number applies to the final head, a chosen threshold belongs to the decision head
    assert ([row["pred_score"] for row in rows] == plain) == (rule == "0.37")
    names = {0: "normal", 1: "anomalous"}
    assert all(row["pred_class"] == names[row["pred_label"]] for row in rows)


def test_calibrated_scores_are_mapped_and_decide_alike(finished):
    folder, paths = finished
    calibration = Calibration(**stored(folder)[KEY]["calibration"])
    plain = scored(folder, paths, threshold="f1")
    mapped = scored(folder, paths, calibrated=True)
    expected = calibration.apply(np.array([row["pred_score"] for row in plain]))
    np.testing.assert_allclose([row["pred_score"] for row in mapped], expected, atol=1e-12)
    assert [row["pred_label"] for row in mapped] == (expected >= 0.5).astype(int).tolist()
    # a threshold chosen from the data decides alike before and after an increasing map
    ways = ({"threshold": "recall:0.9"}, {"threshold": "recall:0.9", "calibrated": True})
    labels = [[row["pred_label"] for row in scored(folder, paths, **way)] for way in ways]
    assert labels[0] == labels[1]


def test_a_rule_the_images_do_not_allow_says_why(finished):
    with pytest.raises(DataError, match=r"false-alarms:0\.001 needs at least 999 normal"):
        load_fitted(finished[0], KEY, threshold="false-alarms:0.001")
    with pytest.raises(ConfigError, match=r"threshold 'sharp' is none of: f1, recall:R"):
        load_fitted(finished[0], KEY, threshold="sharp")


def test_runs_without_validation_scores_take_numbers_only(tmp_path):
    assert read_decision(tmp_path, KEY, rule="0.4").threshold == 0.4
    with pytest.raises(RunError, match=r"holds no validation scores.* give a number"):
        read_decision(tmp_path, KEY, rule="f1")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[]", r"no entry for 'CM-2/QTL-M-3'"),
        ('{"CM-2/QTL-M-3": {}}', r"is damaged \(KeyError"),
        ('{"CM-2/QTL-M-3": {"scores": ["x"], "labels": [], "calibration": null}}', "is damaged"),
        ("{", r"is not valid JSON"),
    ],
)
def test_a_damaged_file_is_one_clear_error(tmp_path, content, message):
    (tmp_path / THRESHOLDS_FILE).write_text(content)
    with pytest.raises(RunError, match=message):
        read_decision(tmp_path, KEY, rule="f1")


def test_a_run_of_one_class_in_validation_has_no_calibration(tmp_path):
    facts = {"scores": [0.1, 0.2], "labels": [0, 0], "calibration": None}
    (tmp_path / THRESHOLDS_FILE).write_text(json.dumps({KEY: facts}))
    with pytest.raises(ConfigError, match=r"no calibration: its validation images lack a class"):
        read_decision(tmp_path, KEY, calibrated=True)


def test_the_report_shows_whether_scores_are_probabilities(tmp_path):
    curve = {"predicted": [0.1, 0.8], "observed": [0.0, 0.9], "count": [20, 20]}
    error = {"calibration_error": 0.1, "calibration_error_interval": [0.05, 0.2]}
    shapes = TypeAdapter(dict[str, Decisions])
    facts = {"CM-2/QTL-M-1": {"holdout": {"quality": {"as scored": {**error, "curve": curve}}}}}
    decisions = shapes.validate_python(facts)
    drawing = curves.reliability_curves({k: v["holdout"]["quality"] for k, v in decisions.items()})
    assert drawing.rstrip().endswith("</svg>")
    curve["count"] = [20]
    with pytest.raises(ValidationError, match="its lists are of different lengths"):
        shapes.validate_python(facts)
