"""Run directories as the studies leave them, with made-up numbers near the published ones."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np

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


def small_result() -> dict[str, Any]:
    """Return two models with a classical and a hybrid row each."""
    result = fake_surface_result()
    return result | {"rows": [result["rows"][i] for i in (0, 3, 4, 7)]}


def markdown_cells(text: str) -> list[list[str]]:
    lines = [re.split(r"(?<!\\)\|", line)[1:-1] for line in text.splitlines()]
    return [[cell.strip().replace("**", "") for cell in line] for line in lines]
