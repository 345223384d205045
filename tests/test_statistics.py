"""Intervals and tests: coverage by simulation, closed forms, and false alarms."""

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import f1_score

from qgraft.evaluation.statistics import (
    Interval,
    bootstrap_mean,
    corrected_paired_test,
    f1_difference,
    holm,
    sentence,
)


@pytest.mark.parametrize(("n", "draw"), [(10, "normal"), (30, "normal"), (30, "beta")])
def test_the_bootstrap_interval_covers_93_to_97_percent(n, draw):
    rng = np.random.default_rng(n)
    truth = {"normal": 0.9, "beta": 8 / 10}[draw]
    hits = 0
    for trial in range(1500):
        values = rng.normal(0.9, 0.03, n) if draw == "normal" else rng.beta(8, 2, n)
        interval = bootstrap_mean(values, seed=trial)
        hits += interval.low <= truth <= interval.high
    assert 0.93 <= hits / 1500 <= 0.97


def test_without_overlap_the_corrected_test_is_the_t_test():
    values = np.random.default_rng(0).normal(0.02, 0.05, 12)
    ours = corrected_paired_test(values, n_train=10**12, n_test=1)
    theirs = stats.ttest_1samp(values, 0)
    low, high = theirs.confidence_interval()
    assert ours.p_value == pytest.approx(theirs.pvalue)
    assert ours.interval == pytest.approx((values.mean(), low, high))


def test_six_folds_widen_the_interval_by_the_published_factor():
    values = np.random.default_rng(0).normal(0.02, 0.05, 6)
    plain = corrected_paired_test(values, 10**12, 1).interval
    folds = corrected_paired_test(values, 5, 1).interval
    ratio = (folds.high - folds.low) / (plain.high - plain.low)
    assert ratio == pytest.approx(np.sqrt((1 / 6 + 1 / 5) / (1 / 6)))


def test_the_corrected_test_raises_few_false_alarms_on_real_folds():
    """Two equal classifiers on overlapping folds: the plain t test cries wolf more often."""
    rng = np.random.default_rng(1)
    corrected, plain = 0, 0
    for _ in range(300):
        shared = rng.normal(0, 1)
        values = 0.03 * (0.6 * shared + 0.8 * rng.normal(0, 1, 6))  # correlation 0.36 of folds
        corrected += corrected_paired_test(values, 5, 1).p_value < 0.05
        plain += stats.ttest_1samp(values, 0).pvalue < 0.05
    assert corrected < 0.6 * plain
    assert corrected / 300 < 0.15


def test_constant_and_single_differences():
    assert corrected_paired_test(np.zeros(6), 5, 1).p_value == 1.0
    assert corrected_paired_test(np.full(6, 0.1), 5, 1).p_value < 1e-9
    assert corrected_paired_test(np.array([0.1]), 5, 1).p_value == 1.0


def test_holm_against_its_definition():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


def hold_out(seed, n=240, heads=3, right=0.8, other_right=0.8):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, n)
    groups = np.arange(n) // 2

    def predictions(share):
        common = rng.random(n) < share  # heads of one study err on the same images
        return np.stack([np.where(common, labels, 1 - labels) for _ in range(heads)])

    return predictions(right), predictions(other_right), labels, groups


def test_the_point_estimate_is_the_difference_of_f1():
    one, other, labels, groups = hold_out(0)
    ours = f1_difference(one, other, labels, groups)
    expected = f1_score(labels, one[0]) - f1_score(labels, other[0])
    assert ours.mean == pytest.approx(expected, abs=1e-12)
    assert ours.low < ours.mean < ours.high


def test_equal_models_are_called_equal_about_95_percent_of_the_time():
    contains = [not f1_difference(*hold_out(seed), seed=seed).excludes_zero for seed in range(120)]
    assert 0.89 <= np.mean(contains) <= 0.99


def test_a_clear_difference_is_found():
    interval = f1_difference(*hold_out(3, right=0.95, other_right=0.7))
    assert interval.low > 0.1


def test_sentences():
    none = sentence("the quantum head", "the dense head", Interval(0.004, -0.003, 0.011), where="x")
    assert none == (
        "On x the quantum head is 0.4 points above the dense head, interval -0.3 to 1.1: "
        "no evidence of a difference."
    )
    worse = sentence("A", "B", Interval(-0.02, -0.03, -0.01), where="clean NEU-DET")
    assert worse == "On clean NEU-DET A is 2.0 points below B, interval -3.0 to -1.0: B is better."
