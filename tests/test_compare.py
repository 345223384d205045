"""Runs side by side: which rows, which differences, which tests, and a page that stays harmless."""

import csv
import json
import re
import sys
from html.parser import HTMLParser

import numpy as np
import pytest
from defusedxml import ElementTree
from scipy import stats

from qgraft import cli
from qgraft.errors import RunError
from qgraft.reports.compare import as_json, outcome, summary, write_comparison
from qgraft.reports.compare_plots import overlaid_curves, score_dots, shared_curves
from qgraft.reports.comparison import compare_runs

DATA = {"digest": "d" * 64, "splits": {"folds": [[1, 2], [3]]}}


def write(folder, result, *, config=None, data=DATA, curves=None):
    folder.mkdir(parents=True, exist_ok=True)
    settings = {"seed": 0, "study": result["study"], "command": "qgraft ...", **(config or {})}
    files = {"result": result, "config": settings, "data": data, "curves": curves}
    for name, content in files.items():
        if content is not None:
            (folder / f"{name}.json").write_text(json.dumps(content))
    return folder


def row(variant, mean, folds=None, **more):
    n = len(folds) if folds else 1
    return {"model": "CM-2", "variant": variant, "f1_mean": mean, "f1_std": 0.01, "n_folds": n,
            "accuracy_mean": mean, "f1_folds": folds, **more}  # fmt: skip


def heads(head, scores, variant="QTL-M-1"):
    return {"model": "CM-2", "variant": variant, "head": head, "says": f"the {head} head",
            "scores": np.asarray(scores).tolist()}  # fmt: skip


def surface(scores, controls=None):
    """A two-stage result: a network, and a hybrid with scores `(n_seeds, n_folds)`."""
    evidence = [heads("dressed", scores), *(heads(*pair) for pair in (controls or {}).items())]
    mean = float(np.mean(scores))
    rows = [row("classical", 0.8), row("QTL-M-1", mean, list(scores[0]))]
    return {"study": "surface", "rows": rows, "evidence": {"rows": evidence}}


def seeds(study, **values):
    """A result whose rows are accuracies over seeds."""
    rows = [
        {"task": "moons", "model": name, "accuracy_mean": float(np.mean(v)),
         "accuracy_std": float(np.std(v, ddof=1)), "n_seeds": len(v), "accuracies": list(v)}
        for name, v in values.items()
    ]  # fmt: skip
    return {"study": study, "rows": rows}


def curve(*accuracies):
    return [{"train_loss": 1.0, "val_accuracy": value} for value in accuracies]


def draw(shift=0.0, shape=(3, 6), seed=0):
    return 0.8 + shift + 0.01 * np.random.default_rng(seed).normal(size=shape)


def test_folds_are_paired_and_corrected(tmp_path):
    a, b = draw(), draw(0.02, seed=1)
    first = write(tmp_path / "a", surface(a, {"matched": a}))
    second = write(tmp_path / "b", surface(b, {"matched": b}), config={"depth": 6})
    compared = compare_runs([first, second])
    assert compared.rows == ("CM-2 classical", "CM-2 QTL-M-1", "CM-2 QTL-M-1: the matched head")
    found = compared.differences[1]
    d = (b - a).mean(0)
    error = np.sqrt((1 / 6 + 1 / 5) * d.var(ddof=1))  # Nadeau and Bengio: one fold in six tests
    assert found.difference == pytest.approx(d.mean())
    assert found.p_value == pytest.approx(2 * stats.t.sf(abs(d.mean()) / error, 5))
    assert found.high - found.low == pytest.approx(2 * stats.t.ppf(0.975, 5) * error)
    assert found.p_adjusted == pytest.approx(min(1.0, 2 * found.p_value))  # two tests in all
    single = compared.differences[0]
    assert (single.p_value, single.low, single.difference) == (None, None, 0.0)
    assert compared.differing == (("depth", "not set", "6"),)
    assert "differences are paired" in compared.pairing[0]


def test_scores_of_folds_in_a_row_are_paired_without_controls(tmp_path):
    folders = []
    for number in range(2):
        folds = draw(seed=number)[0].tolist()
        result = {"study": "fit", "rows": [row("dressed", float(np.mean(folds)), folds)]}
        folders.append(write(tmp_path / str(number), result))
    (found,) = compare_runs(folders).differences
    assert found.paired
    assert 0 < found.p_value < 1


def test_seeds_are_paired_by_the_plain_test(tmp_path):
    a, b = draw(shape=8), draw(0.01, shape=5, seed=3)
    first = write(tmp_path / "a", seeds("spirals", dressed=a, dense=a))
    second = write(tmp_path / "b", seeds("spirals", dressed=b, dense=a[:5]))
    dressed, dense = compare_runs([first, second]).differences
    expected = stats.ttest_rel(b, a[:5])
    assert dressed.p_value == pytest.approx(expected.pvalue)
    assert (dressed.low, dressed.high) == pytest.approx(tuple(expected.confidence_interval(0.95)))
    assert (dense.difference, dense.p_value, dense.p_adjusted) == (0.0, 1.0, 1.0)


@pytest.mark.parametrize(
    ("data", "config", "why"),
    [
        ({**DATA, "digest": "e" * 64}, {}, "images are not the same"),
        ({**DATA, "splits": {"folds": [[3], [1, 2]]}}, {}, "split in other ways"),
        (DATA, {"seed": 1}, "seeds differ"),
        (None, {}, "data.json.*is missing"),
    ],
    ids=["images", "splits", "seed", "data"],
)
def test_runs_that_share_no_draws_are_not_tested(tmp_path, data, config, why):
    a, b = draw(shape=8), draw(0.01, shape=5, seed=3)
    first = write(tmp_path / "a", seeds("spirals", dressed=a))
    second = write(tmp_path / "b", seeds("spirals", dressed=b), data=data, config=config)
    compared = compare_runs([first, second])
    (found,) = compared.differences
    assert pytest.approx(b.mean() - a.mean()) == found.difference
    assert (found.p_value, found.p_adjusted, found.paired) == (None, None, False)
    welch = stats.ttest_ind(b, a, equal_var=False).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx(tuple(welch))
    assert re.search(f"b and a are not paired: .*{why}", compared.pairing[0])
    assert summary(compared) == "Nothing is tested between b and a."
    assert outcome(found) == "not tested"


def test_rows_with_mean_and_spread_alone_get_an_interval(tmp_path):
    rows = [{"left_out": "patches", "head": "dressed", "shots": 5, "n_seeds": 4,
             "balanced_new_mean": 0.7, "balanced_new_std": 0.02}]  # fmt: skip
    other = [{**rows[0], "balanced_new_mean": 0.8, "n_seeds": 9}]
    first = write(tmp_path / "a", {"study": "new-defect", "rows": rows})
    second = write(tmp_path / "b", {"study": "new-defect", "rows": other})
    compared = compare_runs([first, second])
    (found,) = compared.differences
    assert compared.rows == ("patches dressed 5",)
    a, b = 0.02 / 2, 0.02 / 3  # standard errors over 4 and 9 seeds
    freedom = (a**2 + b**2) ** 2 / (a**4 / 3 + b**4 / 8)
    half = stats.t.ppf(0.975, freedom) * np.hypot(a, b)
    assert (found.low, found.high) == pytest.approx((0.1 - half, 0.1 + half))
    assert found.p_value is None


def test_all_runs_and_rows_are_adjusted_together(tmp_path):
    folders = [
        write(tmp_path / str(n), seeds("cifar", x=draw(0.03 * n, 6, n), y=draw(0, 6, n + 9)))
        for n in range(3)
    ]
    found = compare_runs(folders).differences
    assert [(d.run, d.row) for d in found] == [
        ("1", "moons x"), ("1", "moons y"), ("2", "moons x"), ("2", "moons y")
    ]  # fmt: skip
    raw = sorted(d.p_value for d in found)
    expected = np.maximum.accumulate([min(1, p * (4 - i)) for i, p in enumerate(raw)])
    assert sorted(d.p_adjusted for d in found) == pytest.approx(expected)


def test_fits_with_other_heads_and_networks_have_rows_in_common(tmp_path):
    folders = []
    for head in ("dressed", "dense"):
        folds = draw(seed=len(head))[0].tolist()
        rows = [row("classical", 0.9), row(head, float(np.mean(folds)), folds)]
        curves = {f"CM-2/{head}": [curve(0.5, 0.6)], "CM-2/classical": [curve(0.4)]}
        folders.append(
            write(tmp_path / head, {"study": "fit", "rows": rows}, config={"head": head},
                  curves=curves)
        )  # fmt: skip
    compared = compare_runs(folders)
    assert compared.rows == ("network", "graft")
    assert ("head", "dressed", "dense") in compared.differing
    assert dict(shared_curves(compared)) == {"graft": "val_accuracy", "network": "val_accuracy"}


def test_rows_that_only_one_run_has_are_left_out(tmp_path):
    first = write(tmp_path / "a", seeds("cifar", x=[0.5, 0.6], y=[0.5, 0.6]))
    second = write(tmp_path / "b", seeds("cifar", y=[0.5, 0.7], z=[0.5, 0.6]))
    assert compare_runs([first, second]).rows == ("moons y",)
    third = write(tmp_path / "c", seeds("cifar", w=[0.5, 0.7]))
    with pytest.raises(RunError, match=r"no row in common: a has moons x, moons y; c has moons w"):
        compare_runs([first, third])


def test_names_tell_runs_apart(tmp_path):
    folders = [write(tmp_path / x / "run", seeds("cifar", x=[0.5, 0.6])) for x in "ab"]
    assert [run.name for run in compare_runs(folders).runs] == ["a/run", "b/run"]


def test_other_studies_and_the_same_run_twice_are_refused(tmp_path):
    first = write(tmp_path / "a", seeds("cifar", x=[0.5, 0.6]))
    second = write(tmp_path / "b", seeds("spirals", x=[0.5, 0.6]))
    with pytest.raises(RunError, match="a is a run of cifar, b of spirals"):
        compare_runs([first, second])
    with pytest.raises(RunError, match="two or more different runs"):
        compare_runs([first])
    with pytest.raises(RunError, match="two or more different runs"):
        compare_runs([first, tmp_path / "b" / ".." / "a"])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "holds no result.json"),
        ("[]", "holds no rows"),
        ('{"study": "x", "rows": []}', "holds no rows"),
        ('{"study": "x", "rows": [3]}', "a row without a name"),
        ('{"study": "x", "rows": [{"model": "m"}]}', "no study or no score"),
        ('{"study": "x", "rows": [{"model": "m", "f1_mean": NaN}]}', "no study or no score"),
        ('{"rows": [{"model": "m", "f1_mean": 1}]}', "no study or no score"),
    ],
)
def test_damaged_runs_are_refused(tmp_path, content, message):
    first = write(tmp_path / "a", seeds("cifar", x=[0.5, 0.6]))
    (tmp_path / "b").mkdir()
    if content is not None:
        (tmp_path / "b" / "result.json").write_text(content)
    with pytest.raises(RunError, match=message):
        compare_runs([first, tmp_path / "b"])


@pytest.mark.parametrize("curves", [[], {"x": 3}, {"x": [[3]]}, {"x": [{"a": 1}]}])
def test_damaged_curves_are_refused(tmp_path, curves):
    first = write(tmp_path / "a", seeds("cifar", x=[0.5, 0.6]))
    second = write(tmp_path / "b", seeds("cifar", x=[0.5, 0.6]), curves=curves)
    with pytest.raises(RunError, match=r"curves.json is damaged"):
        compare_runs([first, second])


def with_curves(tmp_path, name="a", shift=0.0):
    curves = {
        "CM-2/classical": [curve(0.5 + shift, 0.7), curve(0.4, 0.6, 0.8)],
        "CM-2/QTL-M-1": [curve(0.5, None)],
        "cost": [0.7, 0.6],
    }
    return write(tmp_path / name, surface(draw(shift)), curves=curves)


def test_figures_are_well_formed_and_repeat(tmp_path):
    compared = compare_runs([with_curves(tmp_path), with_curves(tmp_path, "b", 0.1)])
    assert [name for name, _ in shared_curves(compared)] == [
        "CM-2 classical", "CM-2 QTL-M-1", "cost"
    ]  # fmt: skip
    for picture in (overlaid_curves, score_dots):
        svg = picture(compared)
        assert svg == picture(compared)
        ElementTree.fromstring(svg)
    plain = compare_runs([write(tmp_path / n, seeds("cifar", x=[0.5, 0.6])) for n in "cd"])
    assert overlaid_curves(plain) == ""


class Elements(HTMLParser):
    def __init__(self):
        super().__init__()
        self.found = []

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, {name for name, _ in attributes}))


def test_hostile_names_stay_text(tmp_path):
    evil = '<script>alert(1)</script><img src=x onerror="a()">{{ 7*7 }}'
    folders = []
    for name in ("=1+1 <b>", "b"):
        result = seeds("cifar", **{evil: [0.5, 0.6], "=cmd|' /C calc'": [0.4, 0.5]})
        config = {"command": evil, "depth": name, "protocol": "\x1b[31m"}
        folders.append(write(tmp_path / name, result, config=config))
    page = write_comparison(compare_runs(folders), tmp_path / "out")
    parser = Elements()
    parser.feed(page.read_text())
    tags = {tag for tag, _ in parser.found}
    assert not {"script", "b", "iframe", "object"} & tags
    assert not any(name.startswith("on") for _, names in parser.found for name in names)
    assert sum(tag == "img" for tag, _ in parser.found) == 1  # the scores
    assert "default-src 'none'" in page.read_text()
    assert "\x1b" not in page.read_text()
    assert "{{ 7*7 }}" in page.read_text()
    with (tmp_path / "out" / "tables" / "scores.csv").open(newline="") as file:
        cells = [cell for line in csv.reader(file) for cell in line]
    assert not any(cell.startswith(("=", "+", "@")) for cell in cells)


def test_a_comparison_does_not_overwrite_a_run(tmp_path):
    folders = [write(tmp_path / n, seeds("cifar", x=[0.5, 0.6])) for n in "ab"]
    with pytest.raises(RunError, match="holds a run; choose another folder"):
        write_comparison(compare_runs(folders), folders[0])


def call(monkeypatch, capsys, *words):
    monkeypatch.setattr(sys, "argv", ["qgraft", *map(str, words)])
    try:
        cli.main()
        code = 0
    except SystemExit as stop:
        code = stop.code or 0
    printed = capsys.readouterr()
    return code, printed.out, printed.err


def test_the_command_prints_tables_and_leaves_files(monkeypatch, capsys, tmp_path):
    first, second = with_curves(tmp_path), with_curves(tmp_path, "b", 0.1)
    out = tmp_path / "out"
    words = ("compare", first, second, "--out", out, "--json", "-")
    code, printed, err = call(monkeypatch, capsys, *words)
    assert code == 0
    assert json.loads(printed) == as_json(compare_runs([first, second]))
    assert json.loads((out / "comparison.json").read_text()) == json.loads(printed)
    assert "CM-2 QTL-M-1" in err
    assert "b is better than a on 1, worse on 0, and on 0 no difference is shown" in err
    assert sorted(path.name for path in out.rglob("*.*")) == [
        "comparison.json", "curves.svg", "differences.md", "report.html", "scores.csv",
        "scores.md", "scores.svg",
    ]  # fmt: skip
    assert "| CM-2 QTL-M-1 |" in (out / "tables" / "scores.md").read_text()
    code, _, err = call(monkeypatch, capsys, "compare", first)
    assert code == 2
    assert err.startswith("error: give two or more different runs")
