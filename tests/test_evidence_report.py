"""The evidence of a run on its page, in its tables and its figures."""

import copy
import csv
import io
import json
import re

import pytest
from defusedxml.ElementTree import fromstring
from rich.console import Console

from qgraft.errors import RunError
from qgraft.reports import evidence, terminal_table, write_report
from qgraft.reports.html import PROTOCOLS
from qgraft.reports.rundir import read_run
from qgraft.reports.tables import MINUS
from qgraft.studies.control_heads import CONTROLS
from qgraft.training.checkpoint import write_json

KINDS = {"dressed": "the quantum head"} | {kind.name: kind.says for kind in CONTROLS}


def head_row(variant, name, f1):
    scores = [[f1 - 0.01, f1, f1 + 0.01], [f1 - 0.02, f1, f1 + 0.02]]
    return {
        "model": "CM-2", "variant": variant, "head": name, "says": KINDS[name], "head_params": 702,
        "f1_mean": f1, "f1_std": 0.0141, "scores": scores,
    }  # fmt: skip


def comparison(variant, name, gap, half, p_adjusted):
    return {
        "model": "CM-2", "variant": variant, "control": name, "says": KINDS[name],
        "hybrid_params": 702, "control_params": 703, "hybrid_f1": 0.8, "control_f1": 0.8 - gap,
        "difference": gap, "std": 0.005, "low": gap - half, "high": gap + half,
        "seeds_low": None, "seeds_high": None, "p_value": p_adjusted / 8, "p_adjusted": p_adjusted,
    }  # fmt: skip


def result():
    row = {
        "model": "CM-2", "variant": "QTL-M-1", "replaced": 2, "n_features": 64, "params": 533_790,
        "trainable": 382, "removed": 1_074, "head_params": 382, "reduction_whole": 0.001,
        "reduction_block": 0.64, "f1_mean": 0.8, "f1_std": 0.01, "f1_best": 0.82,
        "accuracy_mean": 0.8, "accuracy_std": 0.01, "precision_mean": 0.8, "recall_mean": 0.8,
        "auc_mean": 0.9, "confusion": [[40, 10], [10, 40]], "n_folds": 3, "scored_on": "hold-out",
    }  # fmt: skip
    gaps = {"matched": (0.004, 0.007, 1.0), "dense": (0.05, 0.02, 0.001),
            "matched-sine": (-0.05, 0.02, 0.001), "logistic": (0.02, 0.01, 0.3)}  # fmt: skip
    variants = ("QTL-M-1", "QTL-M-2")
    return {
        "study": "surface", "protocol": "clean", "rows": [row], "shortcut_control": None,
        "notes": [], "data": {"n_images": 100, "class_names": ["a", "b"], "findings": []},
        "evidence": {
            "method": "bootstrap of the 40 photographs of the hold-out, 10,000 draws",
            "rows": [head_row(v, n, 0.8) for v in variants for n in ("dressed", *gaps)],
            "comparisons": [comparison(v, n, *gaps[n]) for v in variants for n in gaps],
            "sentences": ["Nothing is shown.", *(f"Sentence {i}." for i in range(8))],
        },
    }  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    write_json(tmp_path / "result.json", result())
    write_report(tmp_path)
    return tmp_path


def test_the_page_asks_and_answers(folder):
    page = (folder / "report.html").read_text()
    header, section = page.split('<section id="evidence">')
    assert "Nothing is shown." in header
    assert PROTOCOLS["clean"] in header
    assert "Does the quantum part help?" in section
    assert "bootstrap of the 40 photographs" in section
    assert all(f"<li>Sentence {i}.</li>" in section for i in range(8))
    assert (
        "CM-2 QTL-M-2, quantum head: 702 parameters, F1 80.00 ± 1.41 % (2 seeds, 3 folds)" in page
    )
    cells = re.findall(r"<td>([^<]*)</td>", section)
    assert "+0.40 ± 0.50" in cells
    assert f"{MINUS}0.30 to +1.10" in cells
    assert cells.count("quantum better") == cells.count("control better") == 2
    assert cells.count("hint: quantum") == cells.count("none shown") == 2
    assert page.count("data:image/svg+xml") >= 3


def test_tables_for_other_programs(folder):
    rows = list(csv.DictReader(io.StringIO((folder / "tables" / "evidence.csv").read_text())))
    found = [(row["variant"], row["control"], float(row["difference"])) for row in rows]
    expected = result()["evidence"]["comparisons"]
    assert found == [(row["variant"], row["control"], row["difference"]) for row in expected]
    assert rows[0]["seeds_low"] == ""
    markdown = (folder / "tables" / "evidence.md").read_text().splitlines()
    assert len(markdown) == 2 + len(expected)
    assert "| matched dense head | 703 | 79.60 | 80.00 | +0.40 ± 0.50 |" in markdown[2]
    latex = (folder / "tables" / "evidence.tex").read_text()
    assert latex.count(r" \\") == 1 + len(expected)
    assert r"$-$5.00 $\pm$ 0.50" in latex


def test_figures_are_svg_and_repeat(folder):
    compared = result()["evidence"]
    for name, svg in (
        ("evidence", evidence.forest(compared["comparisons"])),
        ("evidence-scores", evidence.scores(compared["rows"])),
    ):
        assert (folder / "figures" / f"{name}.svg").read_text() == svg
        assert fromstring(svg).tag.endswith("svg")


@pytest.mark.parametrize("n_hybrids", [1, 3, 9])
def test_any_number_of_hybrids_is_drawn(n_hybrids):
    one = result()["evidence"]["comparisons"][:4]
    rows = [{**row, "variant": f"k = {k}"} for k in range(n_hybrids) for row in one]
    assert fromstring(evidence.forest(rows)).tag.endswith("svg")


def test_the_terminal_says_it_too(folder):
    console = Console(width=100, file=io.StringIO())
    with console.capture() as shown:
        console.print(terminal_table(read_run(folder).result))
    assert "Nothing is shown." in shown.get()


def test_a_run_without_controls_has_no_such_section(tmp_path):
    plain = result()
    del plain["evidence"]
    write_json(tmp_path / "result.json", plain)
    page = write_report(tmp_path).read_text()
    assert 'id="evidence"' not in page
    assert not (tmp_path / "tables" / "evidence.csv").exists()


def test_hostile_names_stay_text(tmp_path):
    hostile = result()
    for part in ("rows", "comparisons"):
        for row in hostile["evidence"][part]:
            row |= {"model": "<script>$x$", "says": "=1+1 <b>\u202e"}
    hostile["evidence"]["sentences"] = ["<img src=x>"] * 9
    write_json(tmp_path / "result.json", hostile)
    page = write_report(tmp_path).read_text()
    assert not re.search(r"<(script|b|img src=x)>", page)
    assert "\u202e" not in page


@pytest.mark.parametrize(
    "damage",
    [
        {"sentences": []},
        {"comparisons": [{}]},
        {"rows": [{**head_row("v", "dressed", 0.8), "scores": [[]]}]},
        {"method": 3},
    ],
)
def test_damage_is_one_clear_error(tmp_path, damage):
    broken = copy.deepcopy(result())
    broken["evidence"] |= damage
    (tmp_path / "result.json").write_text(json.dumps(broken))
    with pytest.raises(RunError, match=r"result\.json: evidence\..*run again"):
        write_report(tmp_path)
