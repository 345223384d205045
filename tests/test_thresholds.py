"""Thresholds: properties against brute force, the false-alarm promise by simulation, edge cases."""

import math
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qgraft.errors import ConfigError, DataError
from qgraft.evaluation.thresholds import (
    STORED_RULES,
    choose_threshold,
    effect,
    false_alarm_threshold,
    parse_rule,
    threshold_facts,
)

# Few distinct values, so that ties are common; single precision, as networks give them.
SCORES = st.sampled_from([float(np.float32(k / 7)) for k in range(8)])


@st.composite
def validation(draw, anomalous=1, normal=1):
    labels = [1] * draw(st.integers(anomalous, 12)) + [0] * draw(st.integers(normal, 12))
    scores = draw(st.lists(SCORES, min_size=len(labels), max_size=len(labels)))
    return np.array(scores), np.array(labels)


def choose(rule, scores, labels):
    return choose_threshold(parse_rule(rule), np.asarray(scores), np.asarray(labels))


def every_cut(scores):
    """Return thresholds that tell apart every way to cut the scores."""
    distinct = np.unique(scores)
    return np.concatenate([distinct, [np.nextafter(distinct[-1], np.inf)]])


def counts(threshold, scores, labels):
    called = scores >= threshold
    return int((called & (labels == 1)).sum()), int((called & (labels == 0)).sum())


@given(validation(normal=0), st.sampled_from([0.01, 0.1, 0.3, 1 / 3, 0.5, 0.7, 0.9, 0.99, 1.0]))
def test_recall_is_reached_and_no_higher_threshold_reaches_it(sample, wanted):
    scores, labels = sample
    chosen = choose(f"recall:{wanted!r}", scores, labels)
    n = labels.sum()
    assert counts(chosen, scores, labels)[0] / n >= wanted
    for higher in every_cut(scores):
        if higher > chosen:
            assert counts(higher, scores, labels)[0] / n < wanted


@given(validation())
def test_f1_is_that_of_brute_force(sample):
    scores, labels = sample

    def f1(threshold):
        hits, false = counts(threshold, scores, labels)
        return 2 * hits / (hits + false + labels.sum())

    chosen = choose("f1", scores, labels)
    best = max(map(f1, every_cut(scores)))
    assert f1(chosen) == best
    assert all(f1(t) < best for t in every_cut(scores) if t > chosen)  # the highest of the best


@given(validation(), st.sampled_from([0.2, 0.5, 0.8, 1.0]))
def test_precision_has_the_most_recall_of_all_that_are_precise_enough(sample, wanted):
    scores, labels = sample

    def precise(threshold):
        hits, false = counts(threshold, scores, labels)
        return hits + false > 0 and hits / (hits + false) >= wanted

    fitting = [t for t in every_cut(scores) if precise(t)]
    if fitting:
        assert choose(f"precision:{wanted}", scores, labels) == min(fitting)
    else:
        with pytest.raises(DataError, match=r"no threshold reaches precision .*; the best is"):
            choose(f"precision:{wanted}", scores, labels)


@given(st.lists(SCORES, min_size=1, max_size=60), st.sampled_from([0.02, 0.05, 0.1, 0.3, 0.7]))
def test_false_alarms_take_the_order_statistic(normal, rate):
    n = len(normal)
    rank = next(k for k in range(1, n + 2) if (n + 1 - k) / (n + 1) <= rate)
    if rank > n:
        with pytest.raises(DataError, match=rf"at least \d+ normal validation images, .* {n};"):
            false_alarm_threshold(np.array(normal), rate)
        return
    assert rank == math.ceil((n + 1) * (1 - rate) - 1e-9)
    chosen = false_alarm_threshold(np.array(normal), rate)
    assert chosen == np.nextafter(sorted(normal)[rank - 1], np.inf)


@pytest.mark.parametrize(("n", "rate"), [(19, 0.05), (40, 0.1), (99, 0.01), (150, 0.02)])
def test_the_false_alarm_rate_holds_for_images_to_come(n, rate):
    """Over draws of n normal scores the mean rate is j / (n + 1), j the largest that fits."""
    rng = np.random.default_rng(7)
    rates = []
    for _ in range(4000):
        # uniform scores: the share of future scores above a threshold is one minus it
        rates.append(1 - min(1.0, false_alarm_threshold(rng.random(n), rate)))
    promised = math.floor(rate * (n + 1) + 1e-9) / (n + 1)
    error = np.std(rates) / np.sqrt(len(rates))
    assert np.mean(rates) == pytest.approx(promised, abs=4 * error)
    assert promised <= rate


def test_too_few_normal_images_say_how_many_are_needed():
    with pytest.raises(DataError, match=r"at least 99 normal .* there are 40; allow 0\.0244"):
        choose("false-alarms:0.01", np.linspace(0, 1, 40), np.zeros(40))
    assert choose("false-alarms:0.0244", np.linspace(0, 1, 40), np.zeros(40)) == np.nextafter(1, 2)
    assert choose("false-alarms:0.01", np.linspace(0, 0.5, 99), np.zeros(99)) > 0.5


NOTHING_ANOMALOUS = ([0.1, 0.9], [0, 0])
NOTHING_NORMAL = ([0.1, 0.9], [1, 1])


@pytest.mark.parametrize(
    ("rule", "sample", "message"),
    [
        ("f1", NOTHING_ANOMALOUS, r"f1 needs anomalous .* use false-alarms:A"),
        ("recall:0.9", NOTHING_ANOMALOUS, r"recall:0\.9 needs anomalous"),
        ("precision:0.9", NOTHING_ANOMALOUS, r"precision:0\.9 needs anomalous"),
        ("f1", NOTHING_NORMAL, r"f1 needs normal .* use recall:R"),
        ("precision:0.9", NOTHING_NORMAL, r"precision:0\.9 needs normal"),
        ("false-alarms:0.5", NOTHING_NORMAL, r"at least 1 normal .* there are 0; add normal"),
        ("f1", ([], []), r"no validation image"),
        ("f1", ([0.1, np.nan, np.inf], [0, 1, 1]), r"2 of 3 validation scores are not finite"),
        ("f1", ([0.1, 0.2], [0, 2]), r"labels 0 \(normal\) and 1 \(anomalous\) only"),
        ("f1", ([0.1, 0.2], [0]), r"a score and a label per image, got \(2,\) and \(1,\)"),
    ],
)
def test_what_the_images_do_not_allow_is_one_clear_error(rule, sample, message):
    with pytest.raises(DataError, match=message):
        choose(rule, *sample)


def test_a_single_image_is_enough_where_the_rule_allows_it():
    assert choose("recall:1", [0.3], [1]) == 0.3
    assert choose("false-alarms:0.5", [0.3], [0]) == np.nextafter(0.3, 1)
    assert choose("recall:0.5", *NOTHING_NORMAL) == 0.9


def test_all_scores_tied_gives_all_or_nothing():
    labels = [0, 0, 1, 1]
    assert choose("f1", [0.5] * 4, labels) == 0.5
    assert choose("false-alarms:0.34", [0.5] * 4, labels) > 0.5
    assert effect(0.5, np.full(4, 0.5), np.array(labels)) == {
        "recall": 1.0, "precision": 0.5, "f1": 2 / 3, "false_alarms": 1.0,
    }  # fmt: skip
    nothing = {"recall": None, "precision": None, "f1": None, "false_alarms": 0.0}
    assert effect(0.9, np.full(2, 0.5), np.zeros(2)) == nothing


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("f1", ("f1",)),
        (" recall:0.99 ", ("recall", 0.99)),
        ("precision:1", ("precision", 1.0)),
        ("false-alarms:1e-2", ("false-alarms", 0.01)),
        ("0.7", ("at", 0.7)),
    ],
)
def test_rules_are_read_as_typed(text, rule):
    assert tuple(parse_rule(text))[: len(rule)] == rule


@settings(max_examples=300)
@given(st.text(max_size=20) | st.from_regex(r"(f1|recall|precision|at|false-alarms):?.{0,6}"))
def test_any_text_is_a_rule_or_a_clear_error(text):
    with suppress(ConfigError):
        rule = parse_rule(text)
        assert rule.kind == "f1" or 0 <= rule.wanted <= 1


@pytest.mark.parametrize(
    "text", ["", "f1:0.5", "recall", "recall:", "recall:0", "recall:1.1", "recall:nan", "2", "-0.1",
             "false-alarms:0", "false-alarms:1", "best", "at:0.5x"],
)  # fmt: skip
def test_wrong_rules_name_what_is_allowed(text):
    with pytest.raises(ConfigError, match=r"recall:R, precision:P, false-alarms:A"):
        parse_rule(text)


def test_facts_hold_each_threshold_or_the_reason_for_none():
    facts = threshold_facts(np.linspace(0, 1, 60), np.repeat([0, 1], 30))
    assert tuple(facts) == STORED_RULES
    assert facts["f1"]["threshold"] == pytest.approx(30 / 59)
    assert facts["f1"]["f1"] == 1.0
    assert facts["false-alarms:0.05"]["false_alarms"] == 0.0
    assert facts["false-alarms:0.01"]["threshold"] is None
    assert "99 normal" in facts["false-alarms:0.01"]["reason"]
