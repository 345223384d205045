"""The two-stage studies end to end on small sets: results, resume to the bit, no leaks, reuse."""

import json
import re
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

from qgraft.config import FitConfig, SurfaceConfig, resolve
from qgraft.data.images import read_image
from qgraft.data.synthetic import synthetic_steel
from qgraft.errors import QgraftError, RunError, WeightsError
from qgraft.evaluation.metrics import score
from qgraft.reports import write_report
from qgraft.studies.control_heads import CONTROLS
from qgraft.studies.fit import read_images, run_fit
from qgraft.studies.predict import find_images, format_predictions, load_fitted, predict
from qgraft.studies.run import open_run, remove_run
from qgraft.studies.surface import hybrids_of, run_surface
from qgraft.training.checkpoint import load_tensors

PHOTOGRAPHS = synthetic_steel(7, seed=3)
SMALL = {
    "data": "synthetic",
    "models": ("cm2",),
    "inits": 2,
    "epochs": 2,
    "head_epochs": 2,
    "folds": 3,
    "head_seeds": 2,
    "per_class": 36,
}


def small(**changes):
    return resolve(SurfaceConfig, {**SMALL, **changes})


def run(folder, config, photographs=PHOTOGRAPHS, **options):
    opened = open_run(folder, config.model_dump(mode="json"), resume=False, **options)
    return run_surface(opened, photographs, config)


@pytest.fixture(scope="module")
def clean_run(tmp_path_factory):
    """Return the folder of one finished run under `clean`."""
    folder = tmp_path_factory.mktemp("runs") / "clean"
    run(folder, small(protocol="clean"))
    return folder


def test_the_result_has_every_row_and_score(clean_run):
    result = json.loads((clean_run / "result.json").read_text())
    assert [row["variant"] for row in result["rows"]] == [
        "classical", "QTL-M-1", "QTL-M-2", "QTL-M-3",
    ]  # fmt: skip
    for row in result["rows"]:
        for key in ("f1_mean", "f1_best", "accuracy_mean", "precision_mean", "recall_mean"):
            assert 0 <= row[key] <= 1
        assert row["f1_best"] >= row["f1_mean"]
        assert row["published_f1"] is None  # nothing was published without the leaks
        assert row["published_params"] > 0
    params = [row["params"] for row in result["rows"]]
    assert params == [534_482, 533_790, 525_854, 273_182]
    assert [row["n_folds"] for row in result["rows"]] == [1, 3, 3, 3]
    assert result["rows"][0]["n_inits"] == 2
    assert 0 <= result["shortcut_control"]["f1"] <= 1
    assert len(result["evidence"]["comparisons"]) == 3 * len(CONTROLS)
    assert result["config"]["seed"] == 0
    page = write_report(clean_run).read_text()
    assert len(page) > 50_000
    assert result["data"]["per_class"] == {"normal": 36, "anomalous": 36}
    facts = re.sub(r"\s*<[^>]+>\s*", " ", page)
    assert re.search(r"Normal\s+36\s+Anomalous\s+36", facts)


def test_scores_agree_with_the_kept_predictions(clean_run):
    result = json.loads((clean_run / "result.json").read_text())
    with np.load(clean_run / "predictions.npz") as arrays:
        for row in result["rows"][1:]:
            key = f"{row['model']}__{row['variant']}"
            p, labels = arrays[f"{key}.scores"], arrays[f"{key}.labels"]
            scores = score(np.stack([1 - p, p], 1), labels)
            assert scores["f1"] == pytest.approx(row["final_f1"])
            assert scores["confusion"] == row["confusion"]
            held = json.loads((clean_run / "data.json").read_text())["splits"]["holdout"]
            assert arrays[f"{key}.index"].tolist() == held


def test_paper_scores_every_image_in_the_folds(tmp_path):
    result = run(tmp_path / "run", small(protocol="paper", per_class=30, inits=1))
    classical, *hybrids = result["rows"]
    assert np.sum(classical["confusion"]) == int(0.2 * 60)
    assert all(np.sum(row["confusion"]) == 60 for row in hybrids)
    assert any("trained on 80 %" in note for note in result["notes"])
    assert all(row["final_f1"] is None for row in hybrids)
    assert [row["published_f1"] for row in result["rows"]] == [0.9516, 0.9662, 0.9681, 0.9895]


class StoppedError(Exception):
    """Stands for a run that dies."""


@pytest.mark.parametrize("stop_at", [1, 3, 9, 14, 45])
def test_a_stopped_run_ends_with_the_identical_result(clean_run, tmp_path, stop_at):
    calls = 0

    def stop(done, total, note):
        nonlocal calls
        calls += 1
        if calls == stop_at:
            raise StoppedError

    config = small(protocol="clean")
    folder = tmp_path / "run"
    with pytest.raises(StoppedError):
        run(folder, config, progress=stop)
    assert not (folder / "result.json").exists()
    with pytest.raises(RunError, match=r"holds a run already; go on with it by --resume"):
        run(folder, config)
    resumed = open_run(folder, config.model_dump(mode="json"), resume=True)
    run_surface(resumed, PHOTOGRAPHS, config)
    for name in ("result.json", "curves.json", "predictions.npz", "models.json", "data.json"):
        assert (folder / name).read_bytes() == (clean_run / name).read_bytes()
    for file in clean_run.rglob("*.safetensors"):
        assert (folder / file.relative_to(clean_run)).read_bytes() == file.read_bytes()


def test_resuming_with_other_settings_is_refused(clean_run):
    other = small(protocol="clean", epochs=3).model_dump(mode="json")
    with pytest.raises(RunError, match=r"epochs was 2, now 3 \(1 differ"):
        open_run(clean_run, other, resume=True)


def test_nothing_learns_from_the_hold_out(clean_run, tmp_path):
    """Other pixels in the hold-out photographs change no weight and no choice."""
    splits = json.loads((clean_run / "data.json").read_text())["splits"]
    with np.load(clean_run / "predictions.npz") as arrays:
        held = arrays["CM-2__QTL-M-1.index"]
    from qgraft.data.surface import CUT_MARK, surface_images

    images = surface_images(PHOTOGRAPHS, protocol="clean", per_class=36, seed=0)
    assert held.tolist() == splits["holdout"]
    names = {images.names[i].split(CUT_MARK)[0] for i in held}
    kept = {images.names[i].split(CUT_MARK)[0] for i in range(len(images))} - names
    spoiled = tuple(
        np.flipud(image).copy() if name in names else image
        for image, name in zip(PHOTOGRAPHS.images, PHOTOGRAPHS.names, strict=True)
    )
    assert kept
    assert not kept & names
    run(tmp_path / "run", small(protocol="clean"), replace(PHOTOGRAPHS, images=spoiled))
    inside = np.setdiff1d(np.arange(len(images)), held)
    for file in clean_run.rglob("*.safetensors"):
        other = tmp_path / "run" / file.relative_to(clean_run)
        if file.name.startswith("control-"):  # what heads say of all images, the hold-out too
            ours, theirs = (load_tensors(path)["classes"][..., inside] for path in (file, other))
            assert torch.equal(ours, theirs)
        else:
            assert other.read_bytes() == file.read_bytes()


def test_every_k_can_be_asked_for():
    assert [(h.variant, h.replace_last) for h in hybrids_of("cm1", "all")] == [
        ("last-1", 1), ("last-2", 2), ("QTL-M-1", 3), ("QTL-M-2", 4), ("QTL-M-3", 5),
    ]  # fmt: skip


def test_only_run_folders_are_removed(tmp_path):
    remove_run(tmp_path / "none")
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "config.json").write_text("{}")
    (precious / "thesis.tex").write_text("x")
    with pytest.raises(RunError, match=r"holds 'thesis.tex', which is not part of a run"):
        remove_run(precious)
    (precious / "thesis.tex").unlink()
    remove_run(precious)
    assert not precious.exists()
    (tmp_path / "file").write_text("x")
    with pytest.raises(RunError, match="is a file"):
        remove_run(tmp_path / "file")


def test_changed_images_cannot_join_a_stopped_run(clean_run, tmp_path):
    folder = shutil.copytree(clean_run, tmp_path / "run")
    images = list(PHOTOGRAPHS.images)
    images[0] = np.flipud(images[0]).copy()
    config = small(protocol="clean")
    resumed = open_run(folder, config.model_dump(mode="json"), resume=True)
    with pytest.raises(RunError, match="the images or their splits changed"):
        run_surface(resumed, replace(PHOTOGRAPHS, images=tuple(images)), config)


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """Return a folder of normal/ and anomalous/ PNG files of various sizes."""
    from PIL import Image

    folder = tmp_path_factory.mktemp("parts")
    rng = np.random.default_rng(0)
    for label, base in (("normal", 90), ("anomalous", 160)):
        (folder / label).mkdir()
        for i in range(18):
            shape = (40 + i, 60) if i % 2 else (50, 50, 3)
            pixels = rng.normal(base, 10, shape).clip(0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / label / f"{i}.png")
    return folder


def fit_config(folder, **changes):
    settings = {"epochs": 12, "head_epochs": 30, "folds": 3, "batch_size": 8}
    return resolve(FitConfig, {"data": str(folder), **settings, **changes})


def run_fit_in(folder, config):
    opened = open_run(folder, config.model_dump(mode="json"), resume=False)
    return run_fit(opened, read_images(config), config)


@pytest.fixture(scope="module")
def fitted_run(parts, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "fit"
    config = fit_config(parts, learning_rate=3e-4, head_learning_rate=0.02)
    run_fit_in(folder, config)
    return folder


def test_fit_separates_dark_from_bright_and_predict_agrees(parts, fitted_run):
    result = json.loads((fitted_run / "result.json").read_text())
    assert result["rows"][1]["final_f1"] == 1.0
    fitted = load_fitted(fitted_run)
    paths = find_images([str(parts), str(parts / "normal" / "0.png")])
    assert len(paths) == 36
    rows = list(predict(fitted, paths))
    right = [(row["pred_class"] in row["path"]) for row in rows]
    assert np.mean(right) > 0.9
    assert all(row["pred_label"] == (row["pred_score"] > 0.5) for row in rows)
    one = torch.from_numpy(read_image(paths[0], channels=1, size=200))[None, None] / 255
    with torch.no_grad():
        expected = fitted.model(one).softmax(-1)[0, 1]
    assert rows[0]["pred_score"] == pytest.approx(float(expected), abs=1e-5)
    table = format_predictions(rows, "csv").splitlines()
    assert table[0] == "path,pred_score,pred_label,pred_class"
    assert len(table) == 37
    assert json.loads(format_predictions(rows, "json")) == rows


def test_a_run_can_be_moved(fitted_run, parts, tmp_path):
    moved = shutil.copytree(fitted_run, tmp_path / "moved")
    path = [parts / "normal" / "1.png"]
    assert list(predict(load_fitted(moved), path)) == list(predict(load_fitted(fitted_run), path))


def test_a_damaged_or_unfinished_run_cannot_predict(fitted_run, tmp_path):
    with pytest.raises(RunError, match=r"models\.json is missing"):
        load_fitted(tmp_path)
    with pytest.raises(RunError, match=r"no hybrid 'CM-9/x'; it has CM-2/dressed"):
        load_fitted(fitted_run, "CM-9/x")
    damaged = shutil.copytree(fitted_run, tmp_path / "damaged")
    next((damaged / "trunks").rglob("*.safetensors")).write_bytes(b"\0" * 64)
    with pytest.raises(WeightsError, match="not a readable safetensors file"):
        load_fitted(damaged)
    (damaged / "models.json").write_text("{}")
    with pytest.raises(RunError, match=r"models.json or result.json in .* is damaged"):
        load_fitted(damaged)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"replace_last": 9}, "this model has 4 dense layers"),
        ({"head": "nosuch"}, "unknown head 'nosuch'"),
        ({"classes": ("a",)}, "--classes and --per-class go with images that have boxes"),
    ],
)
def test_wrong_options_are_found_before_any_training(parts, changes, message):
    with pytest.raises(QgraftError, match=message):
        read_images(fit_config(parts, **changes))


def test_a_loaded_trunk_is_not_trained_again(parts, fitted_run, tmp_path):
    weights = fitted_run / "trunks" / "cm2" / "init-0.safetensors"
    config = fit_config(parts, trunk_weights=str(weights), replace_last=2)
    result = run_fit_in(tmp_path / "r", config)
    assert not (tmp_path / "r" / "trunks").exists()
    assert result["rows"][1]["replaced"] == 2
    assert load_fitted(tmp_path / "r").class_names == ("normal", "anomalous")


def test_three_classes_and_colour(parts, tmp_path):
    folder = tmp_path / "classes"
    for source, name in (("normal", "dark"), ("anomalous", "bright"), ("normal", "again")):
        shutil.copytree(parts / source, folder / name)
    config = fit_config(folder, colour=True, epochs=1, head_epochs=1)
    images = read_images(config).images
    assert images.class_names == ("again", "bright", "dark")
    assert images.images.shape == (54, 200, 200, 3)
    result = run_fit_in(tmp_path / "r", config)
    assert np.shape(result["rows"][1]["confusion"]) == (3, 3)
    write_report(tmp_path / "r")
    (row,) = predict(load_fitted(tmp_path / "r"), [folder / "dark" / "0.png"])
    assert 1 / 3 <= row["pred_score"] <= 1
    assert row["pred_class"] == images.class_names[row["pred_label"]]
