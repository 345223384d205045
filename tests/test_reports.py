"""Reports: the numbers of the tables, the safety of the page, the sameness of the figures."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import re
import shutil
from base64 import b64decode
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from defusedxml.ElementTree import fromstring
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from qgraft.errors import RunError
from qgraft.reports import plots, tables, terminal_table, verdict, write_report
from qgraft.reports.html import Drawing, render_page
from qgraft.reports.rundir import FinishedRun, Picture, read_run
from qgraft.seeds import numpy_rng
from qgraft.training.checkpoint import write_json

# Table III of arXiv 2409.00228: model, variant, replaced layers, head input, all, removed, F1 %.
TABLE_III = (
    ("CM-1", "classical", 0, 0, 1_076_338, 0, 88.58),
    ("CM-1", "QTL-M-1", 3, 64, 1_074_078, 2_642, 88.91),
    ("CM-1", "QTL-M-2", 4, 128, 1_066_142, 10_898, 88.62),
    ("CM-1", "QTL-M-3", 5, 3200, 671_774, 420_626, 90.08),
    ("CM-2", "classical", 0, 0, 534_482, 0, 95.16),
    ("CM-2", "QTL-M-1", 2, 64, 533_790, 1_074, 96.62),
    ("CM-2", "QTL-M-2", 3, 128, 525_854, 9_330, 96.81),
    ("CM-2", "QTL-M-3", 4, 2048, 273_182, 271_602, 98.95),
    ("CM-3", "classical", 0, 0, 1_125_842, 0, 97.32),
    ("CM-3", "QTL-M-1", 2, 64, 1_125_150, 1_074, 97.81),
    ("CM-3", "QTL-M-2", 3, 128, 1_117_214, 9_330, 97.90),
    ("CM-3", "QTL-M-3", 4, 8192, 108_830, 1_058_034, 97.85),
)


def fake_row(line: tuple, classical_params: int, published: bool = True) -> dict[str, Any]:
    """Return a row with the published sizes and scores near the published ones."""
    model, variant, replaced, n_features, params, removed, f1 = line
    rng = numpy_rng(1, f"{model}/{variant}")
    head = 5 * n_features + 62 if replaced else 0
    mean = f1 / 100 - rng.uniform(-0.004, 0.02)
    wrong = round((1 - mean) * 2206 / 2)
    return {
        "model": model, "variant": variant, "replaced": replaced, "n_features": n_features,
        "params": params, "trainable": head or params, "removed": removed, "head_params": head,
        "reduction_whole": 1 - params / classical_params if replaced else None,
        "reduction_block": (removed - head) / removed if replaced else None,
        "f1_mean": mean, "f1_std": rng.uniform(0.002, 0.012), "f1_best": mean + 0.009,
        "accuracy_mean": mean - 0.0011, "accuracy_std": 0.005,
        "precision_mean": mean + 0.004, "recall_mean": mean - 0.0043, "auc_mean": mean + 0.012,
        "confusion": [[1103 - wrong, wrong], [wrong + 3, 1100 - wrong]],
        "n_folds": 6 if replaced else 5,
        "scored_on": "six folds, trunk saw 80 % of the images" if replaced else "20 % test split",
        "fold_f1_mean": None, "fold_f1_std": None,
        "published_f1": f1 / 100 if published else None,
        "published_params": params if published else None,
    }  # fmt: skip


def fake_surface_result() -> dict[str, Any]:
    classical = {line[0]: line[4] for line in TABLE_III if line[1] == "classical"}
    rows = [fake_row(line, classical[line[0]]) for line in TABLE_III]
    return {
        "study": "surface",
        "protocol": "paper",
        "rows": rows,
        "shortcut_control": {"f1": 0.877, "auc": 0.95, "label": "blur only, 24 spectrum bins"},
        "notes": [
            "The trunk was trained on 80 % of the images that the folds score: hybrid rows are "
            "optimistic and not comparable with classical rows.",
            "Normal images are enlarged crops and blurrier than anomalous ones.",
            "Crops of one photograph lie on both sides of a split.",
        ],
        "config": {},
        "data": {
            "n_images": 2206, "n_photographs": 1200,
            "per_class": {"normal": 1103, "anomalous": 1103},
            "class_names": ["normal", "anomalous"],
            "findings": [
                "123 photographs carry a box of another class than their own",
                "1 duplicate file: scratches_211",
                "XML files say depth 1, images have 3 equal channels",
            ],
        },
    }  # fmt: skip


def fake_fit_result(n_classes: int = 2) -> dict[str, Any]:
    line = ("linear-trunk", "dressed", 1, 512, 11_200_000, 5_130, 93.0)
    row = fake_row(line, 11_202_000, published=False)
    if n_classes > 2:
        counts = numpy_rng(2, "confusion").integers(0, 6, (n_classes, n_classes))
        row |= {"confusion": (counts + 80 * np.eye(n_classes, dtype=int)).tolist()}
        row |= {"auc_mean": None}
    names = ["normal", "anomalous"] if n_classes == 2 else [f"class {i}" for i in range(n_classes)]
    return {
        "study": "fit",
        "protocol": "clean",
        "rows": [row | {"n_folds": 1, "scored_on": "outer hold-out, 240 photographs"}],
        "shortcut_control": {"f1": 0.715, "auc": 0.798, "label": "blur only"},
        "notes": [],
        "config": {},
        "data": {"n_images": 480, "class_names": names, "findings": []},
    }


def fake_images(count: int, size: int = 64) -> np.ndarray:
    """Return brushed-steel textures, every second one with a scratch."""
    rng = numpy_rng(3, "steel")
    grain = rng.normal(0, 1, (count, size, size))
    brushed = sum(np.roll(grain, k, axis=2) for k in range(9)) / 3
    images = 128 + 22 * brushed + 20 * np.linspace(-1, 1, size)[:, None]
    for image in images[1::2]:
        slope, start = rng.uniform(-0.6, 0.6), rng.integers(size // 3, 2 * size // 3)
        for x in range(size // 8, 7 * size // 8):
            image[int(start + slope * (x - size / 2)) % size, x] += 90
    return np.clip(images, 0, 255).astype(np.uint8)


def fake_curve(key: str, n_folds: int, n_epochs: int, final: float) -> list[list[dict]]:
    rng = numpy_rng(4, key)
    progress = 1 - np.exp(-np.arange(n_epochs) / (n_epochs / 5))
    folds = []
    for _ in range(n_folds):
        noise = rng.normal(0, 0.012, (n_epochs, 2))
        train = 0.55 + (final + 0.01 - 0.55) * progress + noise[:, 0]
        val = 0.55 + (final - 0.55) * progress + 1.6 * noise[:, 1]
        folds.append(
            [
                {"train_loss": 1.4 * (1 - t) + 0.05, "train_accuracy": min(t, 1.0),
                 "val_loss": 1.5 * (1 - v) + 0.07, "val_accuracy": min(v, 1.0)}
                for t, v in zip(train.tolist(), val.tolist(), strict=True)
            ]
        )  # fmt: skip
    return folds


def fake_run(run: Path, result: dict[str, Any], epochs: int = 12) -> Path:
    """Write a finished run directory as the studies do."""
    run.mkdir(parents=True)
    rows = result["rows"]
    keys = [f"{row['model']}/{row['variant']}" for row in rows]
    write_json(run / "result.json", result)
    write_json(
        run / "config.json",
        {
            "study": result["study"], "protocol": result["protocol"], "seeds": [7],
            "epochs": epochs,
            "command": ["qgraft", "reproduce", "surface", "--protocol", "paper", "--seed", "7"],
            "head": {"n_qubits": 5, "depth": 3, "scale": 1.0},
        },
    )  # fmt: skip
    write_json(run / "env.json", {"python": "3.12.3", "torch": "2.13.0", "cpu": "2 cores"})
    splits = {"train": list(range(1765)), "test": list(range(441)), "folds": [[0]] * 6}
    write_json(
        run / "data.json", {"summary": result["data"], "digest": "5f" * 32, "splits": splits}
    )
    seconds = {key: 18.4 + 7 * i for i, key in enumerate(keys)}
    write_json(run / "timings.json", {**seconds, "total": 4210.0})
    write_json(
        run / "curves.json",
        {
            key: fake_curve(key, row["n_folds"], 3 * epochs if row["replaced"] == 0 else epochs,
                            row["accuracy_mean"])
            for key, row in zip(keys, rows, strict=True)
        },
    )  # fmt: skip
    arrays = {}
    for key, row in zip(keys, rows, strict=True):
        rng, stem = numpy_rng(5, key), key.replace("/", "__")
        labels = np.arange(600) % len(row["confusion"])
        scores = rng.normal(labels * 5.2 * row["f1_mean"] ** 6, 1)
        arrays[f"{stem}.labels"] = labels
        arrays[f"{stem}.scores"] = (1 / (1 + np.exp(1.5 - scores))).astype(np.float32)
        arrays[f"{stem}.index"] = np.arange(600)
    np.savez(run / "predictions.npz", **arrays)
    names, best = result["data"]["class_names"], max(rows, key=lambda row: row["f1_mean"])
    np.savez(run / "mistakes.npz", images=fake_images(9))
    write_json(
        run / "mistakes.json",
        [{"name": f"{('patches', 'scratches')[i % 2]}_{20 + 7 * i}", "label": names[i % 2],
          "score": (0.93 - 0.05 * i, 0.04 + 0.05 * i)[i % 2],
          "model": best["model"], "variant": best["variant"]} for i in range(9)],
    )  # fmt: skip
    np.savez(run / "samples.npz", images=fake_images(6))
    write_json(
        run / "samples.json",
        [{"name": f"patches_{i + 1}", "label": names[i % 2]} for i in range(6)],
    )
    return run


XSS = (
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    '"><script>alert(1)</script>',
    "'><svg onload=alert(1)>",
    '" onmouseover="alert(1)',
    "' onfocus='alert(1)' autofocus='",
    "</title><script>alert(1)</script>",
    "</style><script>alert(1)</script>",
    "</code></pre><iframe src=javascript:alert(1)>",
    "</td></tr></table><b>out</b>",
    "<a href='javascript:alert(1)'>x</a>",
    "javascript:alert(1)",
    "data:text/html,<script>alert(1)</script>",
    "<svg><animate onbegin=alert(1) attributeName=x>",
    "<math><mi xlink:href='javascript:alert(1)'>x",
    "<body onload=alert(1)>",
    "<input autofocus onfocus=alert(1)>",
    "<details open ontoggle=alert(1)>",
    "<video><source onerror=alert(1)>",
    "<object data=javascript:alert(1)>",
    "<embed src=//evil.example/x.swf>",
    "<link rel=stylesheet href=//evil.example/x.css>",
    "<style>@import '//evil.example/x.css';</style>",
    "<meta http-equiv=refresh content='0;url=//evil.example'>",
    "<base href=//evil.example/>",
    "<form action=//evil.example><button>x",
    "<!--><script>alert(1)</script-->",
    "<![CDATA[<script>alert(1)</script>]]>",
    "{{ 7 * 7 }}{% for x in y %}",
    "&lt;script&gt;alert(1)&lt;/script&gt;",
    "&#60;script&#62;",
    "<scr\x00ipt>alert(1)</scr\x00ipt>",
    "\x1b]0;title\x07\x1b[31mred",
    "\u202egnp.exe",
    "lone \ud800 surrogate",
    "-->$x_1$ \\frac{1} ]]> -- <!--",
    "../../../etc/passwd",
    "=HYPERLINK(\"http://evil.example\")",
)  # fmt: skip


class Structure(HTMLParser):
    """The elements of a page with the names of their attributes, and its table cells."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple] = []
        self.links: list[str] = []
        self.rows: list[list[str]] = []
        self.text = ""
        self._in_cell = False
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, *sorted(name for name, _ in attrs)))
        self.links += [value or "" for name, value in attrs if name in ("src", "href", "action")]
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self._in_cell = True
            self.rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th"):
            self._in_cell = False

    def handle_data(self, data: str) -> None:
        self.text += data
        if self._in_cell:
            self.rows[-1][-1] += data


def replaced(value: Any, change: Any) -> Any:
    """Return `value` with `change` applied to every string in it."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, list):
        return [replaced(item, change) for item in value]
    if isinstance(value, dict):
        return {key: replaced(item, change) for key, item in value.items()}
    return value


def small_result() -> dict[str, Any]:
    """Return two models with a classical and a hybrid row each."""
    result = fake_surface_result()
    return result | {"rows": [result["rows"][i] for i in (0, 3, 4, 7)]}


@pytest.fixture(scope="module")
def surface(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = fake_run(tmp_path_factory.mktemp("surface") / "run", small_result(), epochs=4)
    write_report(run)
    return run


def numbers(text: str) -> list[float]:
    return [
        float(n)
        for n in re.findall(r"-?\d+\.?\d*", text.replace(tables.MINUS, "-").replace(",", ""))
    ]


def markdown_cells(text: str) -> list[list[str]]:
    lines = [re.split(r"(?<!\\)\|", line)[1:-1] for line in text.splitlines()]
    return [[cell.strip().replace("**", "") for cell in line] for line in lines]


# --- tables ------------------------------------------------------------------------------------


def test_markdown_numbers_are_those_of_the_rows() -> None:
    rows = fake_surface_result()["rows"]
    header, _, *body = markdown_cells(tables.markdown_table(rows))
    assert len(body) == 12
    for cells, row in zip(body, rows, strict=True):
        shown = dict(zip(header, cells, strict=True))
        assert (shown["Model"], shown["Variant"]) == (row["model"], row["variant"])
        assert int(shown["Parameters"].replace(",", "")) == row["params"]
        assert int(shown["Replaced layers"]) == row["replaced"]
        expected = {
            "F1 %": [row["f1_mean"], row["f1_std"]],
            "Best fold F1 %": [row["f1_best"]],
            "Accuracy %": [row["accuracy_mean"]],
            "Precision %": [row["precision_mean"]],
            "Recall %": [row["recall_mean"]],
            "Published F1 %": [row["published_f1"]],
            "Difference, points": [row["f1_mean"] - row["published_f1"]],
        }
        for title, fractions in expected.items():
            assert numbers(shown[title]) == pytest.approx([100 * f for f in fractions], abs=0.0051)


def test_reductions_are_the_published_ones() -> None:
    body = markdown_cells(tables.markdown_table(fake_surface_result()["rows"]))[2:]
    # Equation (7) of arXiv 2409.00228 for the nine hybrids; Table III prints the whole-model ones.
    block = [cells[5] for cells in body if cells[1] != "classical"]
    assert " ".join(block) == "85.54 93.56 96.18 64.43 92.48 96.21 64.43 92.48 96.12"
    whole = [cells[4] for cells in body if cells[1] != "classical"]
    assert " ".join(whole) == "0.21 0.95 37.59 0.13 1.61 48.89 0.06 0.77 90.33"
    assert [cells[4] for cells in body if cells[1] == "classical"] == [tables.MISSING] * 3


def test_csv_holds_the_exact_fractions() -> None:
    rows = fake_surface_result()["rows"]
    read = list(csv.DictReader(io.StringIO(tables.csv_table(rows))))
    for cells, row in zip(read, rows, strict=True):
        for field, value in row.items():
            if field == "confusion":
                continue
            assert cells[field] == ("" if value is None else str(value))
        assert float(cells["difference"]) == row["f1_mean"] - row["published_f1"]


def test_best_values_are_bold_and_ties_share_it() -> None:
    rows = [row | {"recall_mean": 0.5} for row in small_result()["rows"]]
    rows[0] |= {"precision_mean": 1.0}
    rows[2] |= {"precision_mean": 1.0}
    lines = tables.markdown_table(rows).splitlines()[2:]
    assert [line.count("**100.00**") for line in lines] == [1, 0, 1, 0]
    assert "**50.00**" not in tables.markdown_table(rows), "equal everywhere is best nowhere"
    smallest = min(row["params"] for row in rows)
    assert f"**{smallest:,}**" in tables.markdown_table(rows)


def test_columns_without_values_disappear() -> None:
    titles = [c.title for c in tables.results_table(fake_fit_result()["rows"]).columns]
    absent = {"Published F1 %", "Difference, points", "Inner folds F1 %", "Best fold F1 %"}
    assert not absent & set(titles)
    inner = [row | {"fold_f1_mean": 0.9, "fold_f1_std": 0.02} for row in small_result()["rows"]]
    assert "90.00 ± 2.00" in tables.markdown_table(inner)


def test_one_fold_has_no_spread() -> None:
    rows = fake_fit_result()["rows"]
    assert "±" not in tables.markdown_table(rows)
    assert "±" not in verdict.verdict(fake_fit_result())


def test_latex_escapes_every_special_character() -> None:
    row = small_result()["rows"][1] | {"model": r"a_b&c%d$e#f{g}h~i^j\k", "variant": "[x] * <y>"}
    text = tables.latex_table([row])
    assert (
        r"a\_b\&c\%d\$e\#f\{g\}h\textasciitilde{}i\textasciicircum{}j\textbackslash{}k"
        r" & {[}x{]} {*} \textless{}y\textgreater{} & 5 &"
    ) in text
    lines = [line for line in text.splitlines() if line.endswith(r"\\")]
    n_columns = len(re.search(r"\{(l+r+)\}", text).group(1))
    assert {len(re.findall(r"(?<!\\)&", line)) for line in lines} == {n_columns - 1}
    assert [line for line in text.splitlines() if "rule" in line] == [
        r"\toprule", r"\midrule", r"\bottomrule",
    ]  # fmt: skip


@given(st.text(max_size=30))
def test_no_text_breaks_a_table(text: str) -> None:
    row = small_result()["rows"][1] | {"model": text, "variant": text, "scored_on": text}
    (cells,) = csv.DictReader(io.StringIO(tables.csv_table([row])))
    assert cells["model"].strip()[:1] not in tuple("=+-@\t\r") or not cells["model"].strip()
    assert cells["f1_best"] == str(row["f1_best"])
    header, _, body = markdown_cells(tables.markdown_table([row]))
    assert len(header) == len(body)
    assert tables.latex_table([row]).count("\n") == 8
    assert plots._short(text).isprintable()


@pytest.mark.parametrize("start", "=+-@\t\r\uff1d\uff0b\uff0d\uff20")
def test_csv_never_starts_a_formula(start: str) -> None:
    row = small_result()["rows"][0] | {"variant": f"{start}cmd|' /C calc'!A0"}
    (cells,) = csv.DictReader(io.StringIO(tables.csv_table([row])))
    assert cells["variant"].startswith("'")


def terminal(result: dict[str, Any], width: int = 100) -> str:
    out = io.StringIO()
    Console(file=out, width=width, force_terminal=True, color_system="standard").print(
        terminal_table(result)
    )
    return out.getvalue()


def test_terminal_table_fits_a_hundred_columns() -> None:
    result = fake_surface_result()
    drawn = terminal(result)
    plain = re.sub(r"\x1b\[[\d;]*m", "", drawn)
    assert max(map(len, plain.splitlines())) <= 100
    assert "…" not in plain
    for row in result["rows"]:
        assert f"{100 * row['f1_mean']:.2f} ± {100 * row['f1_std']:.2f}" in plain
    assert "\x1b[1m" in drawn, "the best values are bold"
    assert "blur only, 24 spectrum bins): F1 87.70 %, AUC 0.950" in plain
    assert plain.count("\n! ") == 3


def test_terminal_shows_hostile_names_as_text() -> None:
    result = small_result() | {"notes": ["[bold red]x[/] \x1b[2J", "[/nothing]"]}
    result["rows"][0] |= {"model": "[link=x]m", "variant": "\x1b]0;t\x07"}
    drawn = terminal(result, width=140)
    assert "[bold red]x[/] \N{REPLACEMENT CHARACTER}[2J" in drawn
    assert "\x1b[2J" not in drawn
    assert "\x1b]0" not in drawn


# --- verdict -----------------------------------------------------------------------------------


def scored(*rows: tuple[str, str, float, float | None], control: float | None = 0.877) -> Any:
    base = small_result()
    return base | {
        "rows": [
            base["rows"][0] | {"model": model, "variant": variant, "f1_mean": f1, "f1_std": 0.01,
                               "published_f1": published, "scored_on": "hold-out"}
            for model, variant, f1, published in rows
        ],
        "shortcut_control": {"f1": control, "auc": None, "label": "blur only"},
    }  # fmt: skip


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        (
            [("CM-2", "classical", 0.9516, None), ("CM-2", "QTL-M-3", 0.9800, 0.9895)],
            "CM-2 with QTL-M-3 reaches F1 98.00 % ± 1.00, 2.84 points above its classical "
            "counterpart and 0.95 points below the published 98.95 %.",
        ),
        (
            [("CM-2", "classical", 0.9750, None), ("CM-2", "QTL-M-3", 0.9800, None)],
            "CM-2 with QTL-M-3 reaches F1 98.00 % ± 1.00, 0.50 points above its classical "
            "counterpart, less than one standard deviation.",
        ),
        (
            [("CM-3", "classical", 0.98, 0.98), ("CM-3", "QTL-M-3", 0.95, None)],
            "The classical CM-3 reaches F1 98.00 % ± 1.00, 3.00 points above the best hybrid, "
            "CM-3 with QTL-M-3 and level with the published 98.00 %.",
        ),
        ([("mine", "dressed", 0.9, None)], "mine with dressed reaches F1 90.00 % ± 1.00."),
    ],
)
def test_verdict_says_what_the_rows_say(rows: list, sentence: str) -> None:
    assert verdict.verdict(scored(*rows)) == sentence


def test_verdict_names_scores_on_other_images() -> None:
    assert "(scored on other images)" in verdict.verdict(small_result())


def test_control_sentence() -> None:
    row = ("m", "classical", 0.9, None)
    assert verdict.control_sentence(scored(row, control=0.8)).startswith(
        "The power spectrum alone reaches F1 80.00 %: only the 10.00 points"
    )
    assert "no model here does better" in verdict.control_sentence(scored(row, control=0.95))
    assert "not measured" in verdict.control_sentence(scored(row, control=None))
    assert "not measured" in tables.control_line(small_result() | {"shortcut_control": None})


# --- figures -----------------------------------------------------------------------------------


def test_figures_are_the_same_bytes_whatever_the_global_style() -> None:
    import matplotlib as mpl

    rows, control = small_result()["rows"], small_result()["shortcut_control"]
    first = plots.f1_spread(rows, control)
    with mpl.rc_context({"font.size": 20, "svg.hashsalt": None, "svg.fonttype": "none"}):
        before = dict(mpl.rcParams)
        assert plots.f1_spread(rows, control) == first
        assert dict(mpl.rcParams) == before
    assert "<dc:date>" not in first


def test_any_label_gives_well_formed_svg() -> None:
    row = small_result()["rows"][0]
    rows = [row | {"model": text, "variant": text, "params": 10 + i} for i, text in enumerate(XSS)]
    for svg in (plots.f1_spread(rows, None), plots.parameters_and_f1(rows)):
        tags = {element.tag.split("}")[-1] for element in fromstring(svg).iter()}
        assert tags <= {"svg", "defs", "style", "clipPath", "rect", "g", "path", "use", "metadata",
                        "RDF", "Work", "type"}  # fmt: skip
        assert "evil" not in svg


def test_curves_of_unequal_length_and_missing_validation() -> None:
    full = {"train_loss": 1.0, "train_accuracy": 0.5, "val_loss": None, "val_accuracy": None}
    folds = [[full, full, full], [full], []]
    stacked = plots._stack(folds, "train_accuracy")
    np.testing.assert_array_equal(
        stacked, [[50, 50, 50], [50, np.nan, np.nan], [np.nan, np.nan, np.nan]]
    )
    assert plots._stack(folds, "val_loss").size == 0
    fromstring(plots.learning_curves({"classical": folds}))


# --- the page ----------------------------------------------------------------------------------


def test_report_writes_every_output(surface: Path) -> None:
    written = {str(p.relative_to(surface)) for p in surface.rglob("*") if p.is_file()}
    names = ("f1", "parameters", "curves-1-cm-1", "curves-2-cm-2", "roc", "confusion", "samples",
             "mistakes")  # fmt: skip
    assert written >= {f"figures/{name}.svg" for name in names}
    assert written >= {"report.html", "tables/results.md", "tables/results.csv"}
    assert not [name for name in written if name.endswith(".part")]


def test_page_loads_nothing_and_runs_nothing(surface: Path) -> None:
    page = (surface / "report.html").read_text()
    parsed = Structure(page)
    assert not re.search(r"https?://|url\(|@import", page)
    assert all(link.startswith(("#", "data:image/")) for link in parsed.links)
    tags = {element[0] for element in parsed.elements}
    assert not tags & {"script", "link", "iframe", "object", "embed", "form", "base"}
    policy = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
    assert f'http-equiv="Content-Security-Policy" content="{policy}"' in page
    assert "prefers-color-scheme: dark" in page


def test_inlined_figures_are_the_written_ones(surface: Path) -> None:
    page = (surface / "report.html").read_text()
    inlined = [b64decode(b) for b in re.findall(r"data:image/svg\+xml;base64,([^\"]+)", page)]
    assert len(inlined) == 6
    on_disk = {path.read_bytes() for path in (surface / "figures").glob("*.svg")}
    assert set(inlined) <= on_disk
    for svg in inlined:
        references = re.findall(rb'href="([^"]*)"', svg)
        assert all(r.startswith((b"#", b"data:image/png;base64,")) for r in references)


def test_page_and_markdown_show_the_same_cells(surface: Path) -> None:
    parsed = Structure((surface / "report.html").read_text())
    body = markdown_cells((surface / "tables" / "results.md").read_text())[2:]
    shown = [[" ".join(cell.split()) for cell in row] for row in parsed.rows[1 : 1 + len(body)]]
    assert shown == [[f"{cells[0]} {cells[1]}", *cells[2:]] for cells in body]


def test_page_puts_warnings_and_control_first(surface: Path) -> None:
    result, text = small_result(), Structure((surface / "report.html").read_text()).text
    order = [
        verdict.verdict(result), "The power spectrum alone reaches F1 87.70 %", *result["notes"],
        "Parameters", "Shortcut control (blur only, 24 spectrum bins)", "Confusion matrices",
        "Mistakes", "patches_20", "What the files are like", *result["data"]["findings"],
        "head.n_qubits", "1 h 10 min", "qgraft reproduce surface --protocol paper --seed 7",
    ]  # fmt: skip
    text, place = " ".join(text.split()), 0
    for part in order:
        place = text.find(part, place)
        assert place >= 0, f"{part} is missing or comes too early"


def test_report_twice_gives_the_same_bytes(surface: Path) -> None:
    before = {p: p.read_bytes() for p in surface.rglob("*") if p.is_file()}
    write_report(surface)
    assert {p: p.read_bytes() for p in surface.rglob("*") if p.is_file()} == before


def test_hostile_texts_create_no_element(surface: Path, tmp_path: Path) -> None:
    finished = read_run(surface)
    for payload in XSS:
        pages = [
            render_page(all_texts(finished, text), [Drawing("f1", text, text, "<svg/>")])
            for text in (payload, "x" * len(payload))
        ]
        hostile, harmless = map(Structure, pages)
        assert hostile.elements == harmless.elements, payload
        assert len(hostile.links) == len(harmless.links)
        assert all(link.startswith(("#", "data:image/")) for link in hostile.links)
        pages[0].encode()  # no lone surrogate is left


def all_texts(finished: FinishedRun, text: str) -> FinishedRun:
    """Return the run with every text in it replaced by `text`, its keys too."""
    kept = {"study", "protocol"}
    result = {
        key: value if key in kept else replaced(value, lambda _: text)
        for key, value in finished.result.items()
    }
    result["rows"][0]["variant"] = "classical"
    return dataclasses.replace(
        finished,
        result=result,
        config={"command": [text, text], text: {text: text}},
        env={text: text},
        data={"digest": text, "splits": {text: [1, 2]}},
        timings={text: 1.0},
        mistakes=tuple(all_words(p, text) for p in finished.mistakes),
        samples=tuple(all_words(p, text) for p in finished.samples),
    )


def all_words(picture: Picture, text: str) -> Picture:
    return Picture(picture.pixels, replaced(dict(picture.words), lambda _: text))


def test_hostile_run_is_written_inside_its_folder(tmp_path: Path) -> None:
    result = fake_fit_result()
    result["rows"][0] |= {"model": "../../up", "variant": "<script>"}
    result["data"] |= {"class_names": ["<b>no</b>", "$\\bad$"], "findings": list(XSS[:20])}
    run = fake_run(tmp_path / "deep" / "run", result, epochs=2)
    write_report(run)
    assert {p.name for p in (tmp_path / "deep").iterdir()} == {"run"}
    assert (run / "figures" / "curves-1-up.svg").is_file()
    assert "8 more" in (run / "report.html").read_text()


def test_result_alone_is_enough(tmp_path: Path) -> None:
    write_json(tmp_path / "result.json", fake_fit_result() | {"shortcut_control": None})
    page = write_report(tmp_path).read_text()
    for absent in ("Learning curves", "ROC", "Mistakes", "Settings and timings", "Published"):
        assert absent not in page
    assert "Confusion matrices" in page
    assert "Shortcut control: not measured in this run." in page


def test_many_classes(tmp_path: Path) -> None:
    run = fake_run(tmp_path / "run", fake_fit_result(n_classes=6), epochs=2)
    page = write_report(run).read_text()
    assert "class 5" in page
    assert "ROC" not in page
    assert "sure of" not in page


# --- damaged runs ------------------------------------------------------------------------------


def spoil_result(run: Path, **changes: Any) -> None:
    result = json.loads((run / "result.json").read_text())
    write_json(run / "result.json", result | changes)


def without_f1(run: Path) -> None:
    rows = json.loads((run / "result.json").read_text())["rows"]
    del rows[2]["f1_mean"]
    spoil_result(run, rows=rows)


def npy_bytes(array: np.ndarray) -> bytes:
    out = io.BytesIO()
    np.save(out, array)
    return out.getvalue()


DAMAGE = {
    "no result": (lambda run: (run / "result.json").unlink(), "holds no result.json"),
    "not JSON": (lambda run: (run / "result.json").write_text("{"), "is not valid JSON"),
    "missing number": (without_f1, r"rows\.2\.f1_mean: Field required"),
    "no rows": (lambda run: spoil_result(run, rows=[]), "rows: List should have at least 1"),
    "NaN": (
        lambda run: (run / "timings.json").write_text('{"total": NaN}'),
        "total: Input should be a finite number",
    ),
    "not an npz": (
        lambda run: (run / "predictions.npz").write_bytes(b"PK\x03\x04 broken"),
        "not a readable npz file",
    ),
    "pickled": (
        lambda run: np.savez(run / "mistakes.npz", images=np.array([{}], dtype=object)),
        "not a readable npz file",
    ),
    "a bare npy": (
        lambda run: (run / "samples.npz").write_bytes(npy_bytes(np.zeros(3))),
        "not a readable npz file",
    ),
    "other count": (
        lambda run: np.savez(run / "mistakes.npz", images=fake_images(2)),
        r"uint8 \(2, 64, 64\) for 9 descriptions",
    ),
    "unequal predictions": (
        lambda run: np.savez(
            run / "predictions.npz",
            **{"CM-1__classical.labels": np.zeros(3), "CM-1__classical.scores": np.zeros(2)},
        ),
        r"labels \(3,\) and scores \(2,\)",
    ),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_damage_is_one_clear_error(kind: str, surface: Path, tmp_path: Path) -> None:
    spoil, message = DAMAGE[kind]
    run = shutil.copytree(surface, tmp_path / "run")
    spoil(run)
    with pytest.raises(RunError, match=message):
        write_report(run)
