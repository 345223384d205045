"""What the report of a transfer study says and draws, on results made up here."""

import json
import re

import numpy as np
import pytest
import torch
from scipy import stats

from qgraft.reports.transfer import (
    mean_difference,
    sentences,
    transfer_table,
    write_transfer_report,
)
from qgraft.reports.transfer_plots import decision_maps, is_quantum
from qgraft.studies.transfer_cells import result_row

DRESSED = np.array([0.90, 0.94, 0.92, 0.96])
LINEAR = np.array([0.91, 0.93, 0.97])


def row(model, accuracies, published=None, task="ants-bees"):
    return result_row(task, model, 10, np.asarray(accuracies), published)


def result(*rows, **more):
    return {"study": "ants-bees", "rows": list(rows), "notes": ["A note."], **more}


def test_an_interval_stays_within_what_an_accuracy_can_be():
    high, low = row("sine", [1.0, 1.0, 0.7]), row("sine", [0.0, 0.0, 0.3])
    assert (high["accuracy_high"], low["accuracy_low"]) == (1.0, 0.0)
    free = row("sine", DRESSED)
    interval = stats.t.interval(0.95, 3, DRESSED.mean(), stats.sem(DRESSED))
    assert (free["accuracy_low"], free["accuracy_high"]) == pytest.approx(interval)
    assert row("sine", [0.5])["accuracy_low"] is None  # one seed has no interval


def test_the_difference_of_means_is_that_of_welch():
    ours = mean_difference(row("dressed", DRESSED), row("linear", LINEAR))
    theirs = stats.ttest_ind(DRESSED, LINEAR, equal_var=False).confidence_interval(0.95)
    assert ours == pytest.approx((theirs.low, theirs.high))
    same = mean_difference(row("dressed", [0.9, 0.9]), row("linear", [0.8, 0.8]))
    assert same == pytest.approx((0.1, 0.1))


def test_sentences_set_ours_beside_theirs_and_quantum_beside_classical():
    said = sentences(result(
        row("dressed", DRESSED, 0.967), row("linear", LINEAR), row("4 hidden", LINEAR - 0.3),
    ))  # fmt: skip
    assert said == [
        "ants-bees, dressed: 93.0 % over 4 seeds, 3.7 points below the published 96.7 %.",
        "ants-bees: dressed is -0.7 points (-6.8 to +5.4) from linear, the best of 2 classical "
        "models: no difference is shown.",
    ]
    clear = sentences(result(row("dressed", DRESSED, 0.9), row("linear", LINEAR - 0.5)))
    assert "3.0 points above" in clear[0]
    assert clear[1].endswith("beyond chance over seeds.")


@pytest.mark.parametrize("rows", [
    [row("dressed", DRESSED)], [row("linear", LINEAR)], [row("dressed", [0.9]), row("linear", [1])],
])  # fmt: skip
def test_nothing_is_compared_where_nothing_can_be(rows):
    assert sentences(result(*rows)) == []


def test_quantum_models_are_known_by_their_titles():
    assert is_quantum("dressed, 4 qubits, depth 6")
    assert is_quantum("15 of 25 photonic layers, then dense, 1000 steps (QC)")
    assert is_quantum("with squeezing, V exact, 500 steps (QQ)")
    assert not is_quantum("no circuit")


def test_the_best_epoch_has_a_column_where_a_model_was_watched(tmp_path):
    watched = row("dressed", DRESSED) | {"best_epoch_mean": 0.95}
    for rows, there in (([watched, row("linear", LINEAR)], True), ([row("linear", LINEAR)], False)):
        (tmp_path / "result.json").write_text(json.dumps(result(*rows)))
        page = write_transfer_report(tmp_path).read_text()
        table = (tmp_path / "tables" / "results.md").read_text().splitlines()
        assert ("Best epoch" in table[0]) == ("do not quote it" in page) == there
        assert {line.count("|") for line in table} == {table[0].count("|")}
        assert len(transfer_table(result(*rows)).columns) == 6 + there


def test_a_page_holds_nothing_that_a_name_can_break(tmp_path):
    hostile = row("<script>x</script>", LINEAR, task="$\\frac{--></svg>")
    (tmp_path / "result.json").write_text(json.dumps(result(hostile)))
    page = write_transfer_report(tmp_path).read_text()
    assert "<script>" not in page


def test_maps_are_drawn_in_the_order_of_the_table():
    tensors = {
        "moons/late": torch.zeros(160, 160), "moons/early": torch.ones(160, 160),
        "points.moons": torch.randn(20, 2), "labels.moons": torch.arange(20) % 2,
    }  # fmt: skip
    drawn = [decision_maps(tensors, "moons", order) for order in (["early", "late"], ["late"])]
    assert [len(re.findall("<image", svg)) for svg in drawn] == [2, 1]
    images = re.findall(r'base64,\s*([^"]+)"', drawn[0])
    assert images[0] != images[1] == re.findall(r'base64,\s*([^"]+)"', drawn[1])[0]
    assert drawn[0] == decision_maps(tensors, "moons", ["early", "late"])  # same bytes again
