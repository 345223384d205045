"""Reports: the safety of the page, the sameness of the figures, damaged runs."""

from __future__ import annotations

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

from fake_runs import XSS, fake_fit_result, fake_images, fake_run, markdown_cells, small_result
from qgraft.errors import RunError
from qgraft.reports import plots, verdict, write_report
from qgraft.reports.html import Drawing, render_page
from qgraft.reports.rundir import FinishedRun, Picture, read_run
from qgraft.training.checkpoint import write_json


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


@pytest.fixture(scope="module")
def surface(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = fake_run(tmp_path_factory.mktemp("surface") / "run", small_result(), epochs=4)
    write_report(run)
    return run


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
