"""One HTML page about one run: no script, no outside resource, every text escaped."""

from __future__ import annotations

import base64
import io
import json
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import numpy as np

from qgraft.reports import curves, evidence, plots, tables, verdict
from qgraft.reports.rundir import Comparison, FinishedRun, Picture, read_run, row_key
from qgraft.training.checkpoint import atomic_write

MANY_FINDINGS = 12
TITLES = {"surface": "Surface inspection study", "fit": "Fitted model"}
PROTOCOLS = {
    "paper": "Paper protocol: the published procedure with its leaks, labelled",
    "clean": "Clean protocol: photographs never parted, scored on images no stage has seen",
}


@dataclass(frozen=True)
class Drawing:
    """A figure of the report: file stem, heading, how to read it, and its SVG text."""

    name: str
    title: str
    caption: str
    svg: str
    fills_row: bool = True
    place: Literal["figures", "evidence"] = "figures"


def write_report(run: Path) -> Path:
    """Write `report.html`, `tables/` and `figures/` into the finished run directory `run`.

    Raises:
        RunError: the folder holds no result, or a file in it is damaged.
    """
    finished = read_run(run)
    rows = finished.result["rows"]
    drawings = draw_figures(finished)
    grids = draw_image_grids(finished)
    atomic_write(run / "tables" / "results.md", tables.markdown_table(rows))
    atomic_write(run / "tables" / "results.csv", tables.csv_table(rows))
    atomic_write(run / "tables" / "results.tex", tables.latex_table(rows))
    if compared := finished.result.get("evidence"):
        _write_evidence_tables(run / "tables", compared["comparisons"])
    for drawing in (*drawings, *grids):
        atomic_write(run / "figures" / f"{drawing.name}.svg", drawing.svg)
    report = run / "report.html"
    atomic_write(report, render_page(finished, drawings))
    return report


def _write_evidence_tables(folder: Path, comparisons: Sequence[Comparison]) -> None:
    columns, fields = evidence.COLUMNS, evidence.CSV_FIELDS
    atomic_write(folder / "evidence.md", tables.markdown_table(comparisons, columns))
    atomic_write(folder / "evidence.csv", tables.csv_table(comparisons, fields))
    atomic_write(folder / "evidence.tex", tables.latex_table(comparisons, columns))


def draw_figures(finished: FinishedRun) -> list[Drawing]:
    """Return every figure that the files of the run allow."""
    result, rows = finished.result, finished.result["rows"]
    drawings = []
    if len(rows) > 1:
        drawings += [
            Drawing(
                "f1",
                "F1 of every model",
                "Dots are means, bars one standard deviation over the folds or runs. "
                "The dashed line is the shortcut control: a model left of it has shown nothing.",
                plots.f1_spread(rows, result["shortcut_control"]),
            ),
            Drawing(
                "parameters",
                "Size against score",
                "Up is better, left is smaller. One colour per model, one shape per head.",
                plots.parameters_and_f1(rows),
            ),
        ]
    drawings += _curve_drawings(finished)
    predictions = _binary_predictions(finished)
    if predictions:
        drawings.append(
            Drawing(
                "roc",
                "ROC curves",
                "How many anomalous images are found at each rate of false alarms.",
                plots.roc_curves(predictions),
                fills_row=len(predictions) > 1,
            )
        )
    drawings.append(
        Drawing(
            "confusion",
            "Confusion matrices",
            "Rows are true classes, columns predictions; every image counts once.",
            plots.confusion_matrices(rows, result["data"]["class_names"]),
            fills_row=len(rows) > 2,
        )
    )
    return drawings + _reliability_drawing(finished) + _evidence_drawings(finished)


def _reliability_drawing(finished: FinishedRun) -> list[Drawing]:
    quality = {
        key: facts["holdout"]["quality"]
        for key, facts in finished.decisions.items()
        if "holdout" in facts
    }
    if not quality:
        return []
    return [
        Drawing(
            "reliability",
            "Are scores probabilities?",
            "Share of anomalous hold-out images over their score; on the dashed line a score of "
            "0.8 means 8 in 10. Bars are one standard error; the error is the mean distance from "
            "the line with its 95 % interval.",
            curves.reliability_curves(quality),
        )
    ]


def _evidence_drawings(finished: FinishedRun) -> list[Drawing]:
    compared = finished.result.get("evidence")
    if not compared:
        return []
    return [
        Drawing(
            "evidence",
            "What the quantum part is worth",
            "Right of the line the quantum head is better. Grey squares: the difference is not "
            "shown; blue or orange dots: it is, after adjustment for all comparisons.",
            evidence.forest(compared["comparisons"]),
            place="evidence",
        ),
        Drawing(
            "evidence-scores",
            "Every head's score",
            "A dot per seed and fold, the mean as a bar; the quantum head in blue.",
            evidence.scores(compared["rows"]),
            place="evidence",
        ),
    ]


def _curve_drawings(finished: FinishedRun) -> list[Drawing]:
    models: dict[str, dict[str, Any]] = {}
    for row in finished.result["rows"]:
        folds = finished.curves.get(row_key(row))
        if folds and any(folds):
            models.setdefault(row["model"], {})[row["variant"]] = folds
    return [
        Drawing(
            f"curves-{i}-{_slug(model)}",
            f"Learning curves of {tables.printable(model)}",
            "Loss and accuracy after each epoch: lines are means over the folds or runs, bands "
            "reach from the worst to the best. "
            "A validation line that turns away from the training line is overfitting.",
            plots.learning_curves(variants),
        )
        for i, (model, variants) in enumerate(models.items(), start=1)
    ]


def _slug(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9]+", "-", name).strip("-").lower()[:40] or "model"


def _binary_predictions(finished: FinishedRun) -> dict[str, dict[str, Any]]:
    models: dict[str, dict[str, Any]] = {}
    for row in finished.result["rows"]:
        labels, scores = finished.predictions.get(row_key(row), (np.zeros(0), np.zeros(0)))
        two_classes = scores.ndim == 1 and set(np.unique(labels)) == {0, 1}
        if two_classes and np.isfinite(scores).all():
            models.setdefault(row["model"], {})[row["variant"]] = (labels, scores)
    return models


def draw_image_grids(finished: FinishedRun) -> list[Drawing]:
    """Return the sample and mistake images as figures; the page shows them as tiles instead."""
    grids = (
        ("samples", "Sample images", finished.samples),
        ("mistakes", "Mistakes", finished.mistakes),
    )
    return [
        Drawing(name, title, "", plots.image_grid(pictures, [_caption(p) for p in pictures]))
        for name, title, pictures in grids
        if pictures
    ]


def _caption(picture: Picture) -> str:
    words = picture.words
    score = words.get("score")
    label = str(words.get("label", ""))
    shown = f"{label}, score {score:.2f}" if isinstance(score, int | float) else label
    return f"{words.get('name', '')}\n{shown}"


def render_page(finished: FinishedRun, drawings: Sequence[Drawing]) -> str:
    """Return the HTML page of a run."""
    from jinja2 import Environment, FunctionLoader, StrictUndefined

    result = finished.result
    compared = result.get("evidence")
    pictures = [(d, _data_uri("svg+xml", d.svg.encode())) for d in drawings]
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, finalize=_visible,
        trim_blocks=True, lstrip_blocks=True, loader=FunctionLoader(_template),
    )  # fmt: skip
    findings = result["data"]["findings"]
    return environment.get_template("report.html.j2").render(
        title=TITLES.get(result["study"], f"Study {result['study']}"),
        protocol=PROTOCOLS.get(result["protocol"] or "", result["protocol"] or ""),
        verdict=verdict.verdict(result),
        control_sentence=verdict.control_sentence(result),
        control_line=tables.control_line(result),
        key_figures=verdict.key_figures(result),
        notes=result["notes"],
        table=tables.results_table(result["rows"]),
        scoring_notes=verdict.scoring_notes(result["rows"]),
        figures=[(d, source) for d, source in pictures if d.place == "figures"],
        evidence=evidence.section(compared) if compared else None,
        evidence_figures=[(d, source) for d, source in pictures if d.place == "evidence"],
        mistaken=_mistaken(finished.mistakes),
        mistakes=[_tile(picture) for picture in finished.mistakes],
        samples=[_tile(picture) for picture in finished.samples],
        audit=result.get("audit"),
        classes=result["data"]["class_names"],
        data_facts=_data_facts(finished),
        findings=findings[:MANY_FINDINGS],
        more_findings=findings[MANY_FINDINGS:],
        folded=[
            (name, _flat(mapping))
            for name, mapping in (("Configuration", finished.config), ("Environment", finished.env))
            if mapping
        ],
        timings=[(key, duration(seconds)) for key, seconds in finished.timings.items()],
        command=_command(finished.config.get("command")),
        seeds=finished.config.get("seeds", finished.config.get("seed")),
    )


def _template(name: str) -> str:
    return resources.files("qgraft.reports").joinpath(name).read_text("utf-8")


def _visible(value: Any) -> Any:
    """Make control characters visible; markup that Jinja itself made passes untouched."""
    if not isinstance(value, str) or hasattr(value, "__html__"):
        return value
    return "\n".join(map(tables.printable, value.split("\n")))


def _data_uri(kind: str, content: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def _tile(picture: Picture) -> dict[str, Any]:
    from PIL import Image

    out = io.BytesIO()
    Image.fromarray(picture.pixels).save(out, format="PNG", optimize=True)
    score = picture.words.get("score")
    return {
        "source": _data_uri("png", out.getvalue()),
        "name": str(picture.words.get("name", "")),
        "label": str(picture.words.get("label", "")),
        "score": f"{score:.3f}" if isinstance(score, int | float) else "",
    }


def _mistaken(pictures: Sequence[Picture]) -> str:
    """Return which models got the pictures wrong."""
    words = (picture.words for picture in pictures)
    names = {f"{w['model']} with {w['variant']}": None for w in words if "model" in w}
    return " and ".join(names) or "the best model"


def _data_facts(finished: FinishedRun) -> list[tuple[str, str]]:
    summary = finished.result["data"]
    counts = [
        ("Images", summary["n_images"]),
        *((name.capitalize(), n) for name, n in summary.get("per_class", {}).items()),
        ("Photographs", summary.get("n_photographs")),
    ]
    facts = [(name, f"{count:,}") for name, count in counts if count]
    facts.append(("Classes", ", ".join(summary["class_names"])))
    facts += _split_sizes(finished.data.get("splits"))
    digest = finished.data.get("digest")
    return [*facts, ("SHA-256 of the images", str(digest))] if digest else facts


def _split_sizes(splits: Any) -> list[tuple[str, str]]:
    """Return how large each split is; lists of lists are folds, lists of numbers images."""
    if not isinstance(splits, Mapping):
        return []
    sizes = []
    for name, members in splits.items():
        if isinstance(members, list):
            is_folds = bool(members) and isinstance(members[0], list | dict)
            sizes.append((f"Split {name}", f"{len(members):,} {'folds' if is_folds else 'images'}"))
    return sizes


def _flat(mapping: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Return nested settings as (dotted name, value) pairs."""
    pairs = []
    for key, value in mapping.items():
        if isinstance(value, Mapping) and value:
            pairs += _flat(value, f"{prefix}{key}.")
        else:
            shown = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            pairs.append((f"{prefix}{key}", shown))
    return pairs


def duration(seconds: float) -> str:
    """Return seconds as a person says them: `12.3 s`, `4 min 05 s`, `1 h 20 min`."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return (
        f"{minutes} min {rest:02d} s"
        if minutes < 60
        else f"{minutes // 60} h {minutes % 60:02d} min"
    )


def _command(command: Any) -> str:
    return shlex.join(map(str, command)) if isinstance(command, list) else str(command or "")
