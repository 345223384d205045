"""Calibration against scikit-learn, against truth in simulation, and on scores that cannot be."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import expit, logit
from sklearn.calibration import calibration_curve
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import brier_score_loss

from qgraft.errors import DataError
from qgraft.evaluation.calibration import (
    Calibration,
    brier_score,
    decision_facts,
    expected_calibration_error,
    fit_calibration,
    holdout_facts,
    reliability_curve,
)
from qgraft.reports.curves import reliability_curves


def overconfident(n, *, slope=0.4, shift=0.5, seed=0):
    """Return scores whose true probability is `sigmoid(slope * logit(score) + shift)`."""
    rng = np.random.default_rng(seed)
    scores = expit(rng.normal(0, 4, n))
    labels = (rng.random(n) < expit(slope * logit(scores) + shift)).astype(int)
    return scores, labels


@pytest.mark.parametrize("digits", [1, 2, 12])
@pytest.mark.parametrize("n_bins", [3, 10])
def test_the_curve_is_that_of_scikit_learn(digits, n_bins):
    scores, labels = overconfident(301)
    scores = scores.round(digits)
    observed, predicted = calibration_curve(labels, scores, n_bins=n_bins, strategy="quantile")
    curve = reliability_curve(scores, labels, n_bins)
    np.testing.assert_allclose(curve.observed, observed, atol=1e-12)
    np.testing.assert_allclose(curve.predicted, predicted, atol=1e-12)
    assert curve.count.sum() == 301


def test_platt_is_a_logistic_regression_on_smoothed_targets():
    scores, labels = overconfident(400)
    fitted = fit_calibration(scores, labels)
    n = np.bincount(labels)
    share = np.where(labels == 1, (n[1] + 1) / (n[1] + 2), 1 / (n[0] + 2))
    # every image twice, once of each class, weighted by its target
    reference = LogisticRegression(C=np.inf, tol=1e-10, max_iter=1000).fit(
        np.tile(logit(scores), 2)[:, None], np.repeat([1, 0], 400),
        sample_weight=np.concatenate([share, 1 - share]),
    )  # fmt: skip
    assert fitted.slope == pytest.approx(reference.coef_[0, 0], rel=1e-4)
    assert fitted.shift == pytest.approx(reference.intercept_[0], abs=1e-4)


def test_calibration_finds_the_truth_and_lowers_every_measure():
    fitted = fit_calibration(*overconfident(20_000))
    assert fitted.slope == pytest.approx(0.4, abs=0.02)
    assert fitted.shift == pytest.approx(0.5, abs=0.06)
    scores, labels = overconfident(1_000, seed=1)
    mended = fitted.apply(scores)
    before = expected_calibration_error(scores, labels)
    after = expected_calibration_error(mended, labels)
    assert after.high < before.low
    assert after.mean < 0.06 < before.mean
    assert brier_score(mended, labels) < brier_score(scores, labels)


def test_temperature_only_stretches():
    scores, labels = overconfident(20_000, shift=0.0)
    fitted = fit_calibration(scores, labels, "temperature")
    assert fitted.shift == 0.0
    assert fitted.temperature == pytest.approx(1 / 0.4, rel=0.05)
    assert fitted.apply(np.array([0.5])) == pytest.approx(0.5)


@given(st.lists(st.floats(0, 1), min_size=2, max_size=30), st.integers(0, 2**30 - 1))
def test_any_scores_give_finite_probabilities_in_the_same_order(values, bits):
    scores = np.array(values)
    labels = np.array([bits >> k & 1 for k in range(len(values))])
    labels[:2] = 0, 1
    mended = fit_calibration(scores, labels).apply(scores)
    assert ((mended >= 0) & (mended <= 1)).all()
    assert (np.diff(mended[np.argsort(scores, kind="stable")]) >= 0).all()
    error = expected_calibration_error(scores, labels)
    assert 0 <= error.low <= error.high <= 1
    assert brier_score(scores, labels) == pytest.approx(brier_score_loss(labels, scores))


def test_separated_and_saturated_scores_stay_finite():
    fitted = fit_calibration(np.array([0.0, 0.0, 1.0, 1.0]), np.array([0, 0, 1, 1]))
    np.testing.assert_allclose(fitted.apply(np.array([0.0, 1.0])), [0.25, 0.75], atol=1e-4)


def test_the_error_is_that_of_the_textbook():
    scores = np.array([0.1, 0.2, 0.8, 0.9])
    labels = np.array([0, 1, 1, 1])
    error = expected_calibration_error(scores, labels, n_bins=2)
    assert error.mean == pytest.approx(0.5 * abs(0.15 - 0.5) + 0.5 * abs(0.85 - 1.0))


def test_whole_photographs_are_resampled():
    """Ten copies of every image carry no more information than one."""
    scores, labels = overconfident(60)
    once = expected_calibration_error(scores, labels)
    many, groups = (np.repeat(scores, 10), np.repeat(labels, 10)), np.repeat(np.arange(60), 10)
    apart, together = (expected_calibration_error(*many, g) for g in (None, groups))
    assert apart.mean == pytest.approx(once.mean, abs=0.02)
    assert together.high - together.low == pytest.approx(once.high - once.low, rel=0.2)
    assert apart.high - apart.low < 0.6 * (together.high - together.low)


def test_the_interval_covers_the_error_of_badly_calibrated_scores():
    curve = reliability_curve(*overconfident(200_000, seed=99))
    truth = np.average(abs(curve.predicted - curve.observed), weights=curve.count)
    intervals = [expected_calibration_error(*overconfident(300, seed=k)) for k in range(30)]
    covered = np.mean([i.low <= truth <= i.high for i in intervals])
    assert covered >= 0.85


@pytest.mark.parametrize(
    ("scores", "labels", "message"),
    [
        ([0.1, 1.2, np.nan], [0, 1, 1], r"2 of 3 scores are not probabilities"),
        ([], [], r"a score and a label per image, got \(0,\)"),
        ([0.5, 0.5], [0, 3], r"labels 0 \(normal\) and 1"),
        ([0.5, 0.5], [0, 0], r"no validation image is anomalous"),
        ([0.5, 0.5], [1, 1], r"no validation image is normal"),
    ],
)
def test_unusable_scores_are_one_clear_error(scores, labels, message):
    with pytest.raises(DataError, match=message):
        fit_calibration(np.array(scores), np.array(labels))


def test_facts_are_plain_json_and_hold_on_the_holdout():
    scores, labels = overconfident(300)
    facts = json.loads(json.dumps(decision_facts(scores.astype(np.float32), labels)))
    assert facts["scores"] == scores.astype(np.float32).astype(float).tolist()
    assert Calibration(**facts["calibration"]).slope == pytest.approx(0.4, abs=0.1)
    held, truth = overconfident(400, seed=3)
    found = json.loads(json.dumps(holdout_facts(facts, held, truth)))
    assert found["thresholds"]["recall:0.99"]["recall"] > 0.93
    assert found["thresholds"]["false-alarms:0.05"]["false_alarms"] < 0.12
    quality = found["quality"]
    assert quality["calibrated"]["brier"] < quality["as scored"]["brier"]
    assert sum(quality["calibrated"]["curve"]["count"]) == 400


def test_facts_without_one_class_keep_what_is_possible():
    facts = decision_facts(np.linspace(0, 0.5, 120), np.zeros(120, dtype=int))
    assert facts["calibration"] is None
    assert facts["thresholds"]["f1"]["threshold"] is None
    assert facts["thresholds"]["false-alarms:0.01"]["threshold"] == np.nextafter(0.5, 1)
    found = holdout_facts(facts, np.array([0.1, 0.9]), np.array([0, 1]))
    assert list(found["quality"]) == ["as scored"]
    assert found["thresholds"]["false-alarms:0.01"]["recall"] == 1.0


def test_the_figure_shows_a_panel_per_model_and_takes_any_name():
    quality = holdout_facts(decision_facts(*overconfident(200)), *overconfident(200, seed=5))[
        "quality"
    ]
    draw = {"CM-2/QTL-M-3": quality, "--><script>$x^2$": quality}
    figure = reliability_curves(draw)
    assert figure == reliability_curves(draw)
    assert "<script" not in figure
    assert figure.count('id="axes_') == 2
