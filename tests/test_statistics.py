"""Intervals and tests: coverage by simulation, closed forms, and false alarms."""

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import f1_score

from qgraft.evaluation.statistics import (
    Interval,
    bootstrap_mean,
    corrected_paired_test,
    draw_photographs,
    f1_difference,
    f1_scores,
    holm,
    resampled_f1,
    resampled_test,
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


def cross_validated_gap(rng, n=120, n_folds=6):
    """Return the accuracies of two equally good classifiers, one minus the other, fold by fold.

    Each calls the nearer class mean on a feature of its own; the means come from the training part.
    """
    labels = rng.permutation(n) % 2
    features = rng.normal(0.6 * labels[:, None], 1.0, (n, 2))
    folds = np.arange(n) % n_folds
    gaps = []
    for fold in range(n_folds):
        train, test = folds != fold, folds == fold
        means = np.stack([features[train & (labels == c)].mean(0) for c in (0, 1)])
        side = features[test] > means.mean(0)
        called = np.where(means[1] > means[0], side, ~side)
        right = (called == labels[test, None]).mean(0)
        gaps.append(right[0] - right[1])
    return np.array(gaps)


def test_the_corrected_test_keeps_its_level_under_cross_validation():
    """Six real folds, 1,000 data sets without a difference: false alarms at 5 %."""
    rng = np.random.default_rng(0)
    gaps = [cross_validated_gap(rng) for _ in range(1000)]
    alarms = np.mean([corrected_paired_test(gap, 5, 1).p_value < 0.05 for gap in gaps])
    plain = np.mean([stats.ttest_1samp(gap, 0).pvalue < 0.05 for gap in gaps if gap.std() > 0])
    assert alarms <= 0.05 < plain


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


@pytest.mark.parametrize("n_classes", [2, 3, 5])
def test_f1_is_scikit_learns(n_classes):
    rng = np.random.default_rng(n_classes)
    labels, predicted = rng.integers(0, n_classes, 40), rng.integers(0, n_classes, (6, 40))
    predicted[0] = 0  # classes that are never called count 0
    average = "binary" if n_classes == 2 else "macro"
    expected = [f1_score(labels, row, average=average, zero_division=0) for row in predicted]
    np.testing.assert_allclose(f1_scores(predicted, labels, n_classes=n_classes), expected)
    resamples = draw_photographs(np.arange(40), n_draws=9)
    drawn = resampled_f1(resamples, predicted, labels, n_classes=n_classes)
    assert drawn[0] == pytest.approx(np.mean(expected))
    copies = np.repeat(np.arange(40), resamples.weights[4].astype(int))
    again = f1_scores(predicted[:, copies], labels[copies], n_classes=n_classes)
    assert drawn[4] == pytest.approx(again.mean())


def test_photographs_are_drawn_whole():
    groups = np.repeat([7, 3, 9], (2, 4, 1))
    resamples = draw_photographs(groups, n_draws=50, seed=1)
    assert resamples.weights.shape == (51, 3)
    assert (resamples.weights.sum(1) == 3).all()
    assert resamples.photograph.tolist() == [1, 1, 0, 0, 0, 0, 2]


def test_the_p_value_belongs_to_the_interval():
    rng = np.random.default_rng(3)
    for shift in (0.0, 1.5, 2.2, 5.0):
        gaps = np.r_[shift, rng.normal(shift, 1.0, 20_000)]
        test = resampled_test(gaps)
        assert test.p_value == pytest.approx(2 * stats.norm.sf(shift), abs=0.01)
        assert test.interval.excludes_zero == (test.p_value < 0.05)
    assert resampled_test(np.zeros(101)) == (Interval(0, 0, 0), 1.0)
    assert resampled_test(np.ones(101)).p_value == pytest.approx(2 / 101)


def hard_hold_out(seed):
    """Return two equally good models that err independently, two images per photograph."""
    rng = np.random.default_rng(seed)
    labels, groups = np.arange(160) % 2, np.arange(160) // 2
    right = rng.random((2, 80)).repeat(2, axis=1) < 0.8
    return [np.where(hits, labels, 1 - labels)[None] for hits in right], labels, groups


def test_resampling_photographs_raises_false_alarms_at_its_level():
    whole, images = [], []
    for seed in range(250):
        (one, other), labels, groups = hard_hold_out(seed)
        for alarms, units in ((whole, groups), (images, np.arange(160))):
            resamples = draw_photographs(units, n_draws=300, seed=seed)
            gap = resampled_f1(resamples, one, labels) - resampled_f1(resamples, other, labels)
            alarms.append(resampled_test(gap).p_value < 0.05)
    assert 0.02 <= np.mean(whole) <= 0.08
    assert np.mean(images) > 0.1  # images of one photograph are no independent evidence


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


@pytest.mark.parametrize(
    ("interval", "p_adjusted", "end"),
    [
        (Interval(0.02, 0.01, 0.03), 0.01, ": A is better."),
        (Interval(-0.02, -0.03, -0.01), 0.01, ": B is better."),
        (Interval(0.02, 0.01, 0.03), 0.2, ": a hint that A is better, not enough among so many "
         "comparisons."),
        (Interval(0.02, -0.01, 0.05), 0.9, ": no evidence of a difference."),
    ],
)  # fmt: skip
def test_adjusted_sentences(interval, p_adjusted, end):
    assert sentence("A", "B", interval, where="x", p_adjusted=p_adjusted).endswith(end)
