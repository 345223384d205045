"""The commands as a person types them: help, examples, one-line errors, files they leave."""

import json
import os
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

from qgraft import cli
from qgraft.studies import demo as demo_study

COMMANDS = (
    [],
    ["demo"],
    ["reproduce"],
    ["reproduce", "surface"],
    ["reproduce", "qcnn"],
    ["fit"],
    ["predict"],
    ["params"],
    ["bench"],
)


def call(monkeypatch, capsys, *words):
    """Run one command in this process and return exit code, output and error output."""
    monkeypatch.setattr(sys, "argv", ["qgraft", *map(str, words)])
    monkeypatch.setenv("COLUMNS", "200")
    try:
        cli.main()
        code = 0
    except SystemExit as stop:
        code = stop.code or 0
    printed = capsys.readouterr()
    return code, printed.out, printed.err


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_help_ends_with_an_example(monkeypatch, capsys, command):
    code, out, _ = call(monkeypatch, capsys, *command, "--help")
    assert code == 0
    assert "qgraft " in out.strip().splitlines()[-1]


def test_help_needs_no_heavy_import():
    started = time.perf_counter()
    probe = (
        "import sys, qgraft.cli\n"
        "sys.argv = ['qgraft', '--help']\n"
        "try: qgraft.cli.main()\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'sklearn', 'scipy', 'matplotlib', 'numpy', 'pennylane', 'pydantic'}\n"
        "print(sorted(heavy & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"
    assert time.perf_counter() - started < 60


def test_params_prints_both_misprints(monkeypatch, capsys):
    code, out, _ = call(monkeypatch, capsys, "params")
    assert code == 0
    assert "671,764*" in out
    assert "525,824*" in out
    assert out.count("*") == 3


def test_params_as_json(monkeypatch, capsys, tmp_path):
    code, out, _ = call(monkeypatch, capsys, "params", "--json", "-")
    rows = json.loads(out)
    assert code == 0
    assert [row["model"] for row in rows] == [f"CM-{m}" for m in (1, 2, 3) for _ in range(4)]
    keys = {"model", "variant", "params", "published", "reduction_whole", "reduction_block"}
    assert all(keys <= set(row) for row in rows)
    call(monkeypatch, capsys, "params", "--json", tmp_path / "rows.json")
    assert json.loads((tmp_path / "rows.json").read_text()) == rows


def test_the_demo_ends_with_a_table_a_page_and_json(monkeypatch, capsys, tmp_path):
    settings = {"epochs": 1, "head_epochs": 1, "folds": 3}
    monkeypatch.setattr(demo_study, "N_PER_DEFECT", 6)
    monkeypatch.setattr(demo_study, "DEMO_SETTINGS", {**demo_study.DEMO_SETTINGS, **settings})
    out_folder = tmp_path / "demo"
    for _ in range(2):  # the second replaces the first
        code, out, err = call(monkeypatch, capsys, "demo", "--out", out_folder, "--json", "-")
        assert code == 0
        assert "QTL-M-3" in err
        assert "Shortcut control" in err
        assert "100 %" in err
    assert (out_folder / "report.html").exists()
    result = json.loads(out)
    assert result == json.loads((out_folder / "result.json").read_text())
    assert all(row["published_f1"] is None for row in result["rows"])


def write_voc(folder, n=12):
    """Write a small NEU-DET-like folder: one photograph per name with one box."""
    rng = np.random.default_rng(0)
    for name in ("IMAGES", "ANNOTATIONS"):
        (folder / name).mkdir(parents=True)
    for i in range(n):
        stem = f"scratches_{i}"
        pixels = rng.integers(0, 255, (90, 90), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "IMAGES" / f"{stem}.jpg")
        (folder / "ANNOTATIONS" / f"{stem}.xml").write_text(
            f"<annotation><filename>{stem}.jpg</filename><size><width>90</width>"
            "<height>90</height><depth>1</depth></size><object><name>scratches</name><bndbox>"
            "<xmin>1</xmin><ymin>1</ymin><xmax>30</xmax><ymax>30</ymax></bndbox></object>"
            "</annotation>"
        )
    return folder


QUICK = ("--inits", 1, "--epochs", 1, "--head-epochs", 1, "--folds", 2)


def test_reproduce_fit_and_predict_on_files(monkeypatch, capsys, tmp_path):
    data = write_voc(tmp_path / "data", 30)
    out = tmp_path / "run"
    study = ["reproduce", "surface", "--data", data, "--models", "cm2", "--per-class", 30]
    code, _, err = call(monkeypatch, capsys, *study, *QUICK, "--out", out)
    assert code == 0, err
    code, _, err = call(monkeypatch, capsys, *study, *QUICK, "--out", out)
    assert code == 2
    assert "go on with it by --resume" in err
    code, _, err = call(
        monkeypatch, capsys, *study, *QUICK, "--out", out, "--resume", "--json", tmp_path / "r.json"
    )
    assert code == 0, err
    assert json.loads((tmp_path / "r.json").read_text())["rows"][3]["variant"] == "QTL-M-3"
    code, printed, err = call(
        monkeypatch, capsys, "predict", out, data / "IMAGES", "--variant", "CM-2/QTL-M-1"
    )
    assert code == 0, err
    assert len(printed.splitlines()) == 31
    code, out_text, err = call(
        monkeypatch, capsys, "fit", data, *QUICK, "--out", tmp_path / "fit", "--json", "-"
    )
    assert code == 0, err
    assert json.loads(out_text)["study"] == "fit"
    row = json.loads((tmp_path / "fit" / "result.json").read_text())["rows"][1]
    assert (row["model"], row["variant"], row["replaced"]) == ("CM-2", "dressed", 4)


def test_a_run_goes_on_with_the_same_folder_by_any_name(monkeypatch, capsys, tmp_path):
    data = write_voc(tmp_path / "data", 30)
    out = tmp_path / "run"
    code, _, err = call(monkeypatch, capsys, "fit", data, *QUICK, "--out", out)
    assert code == 0, err
    monkeypatch.chdir(data)
    heads = {path: path.stat().st_mtime_ns for path in (out / "heads").iterdir()}
    (out / "result.json").unlink()
    resumed = [*QUICK, "--out", out, "--resume"]
    code, _, err = call(monkeypatch, capsys, "fit", "../data", *resumed)
    assert code == 0, err
    assert {path: path.stat().st_mtime_ns for path in heads} == heads
    other = write_voc(tmp_path / "other", 30)
    code, _, err = call(monkeypatch, capsys, "fit", other, *resumed)
    assert code == 2
    assert "started with other settings: data was" in err


def test_broken_files_are_named_and_can_be_skipped(monkeypatch, capsys, tmp_path):
    data = write_voc(tmp_path / "data", 30)
    (data / "IMAGES" / "scratches_3.jpg").write_bytes(b"not an image")
    (data / "ANNOTATIONS" / "scratches_5.xml").unlink()
    study = ["reproduce", "surface", "--data", data, "--models", "cm2", "--per-class", 28]
    study += [*QUICK, "--out", tmp_path / "run"]
    code, _, err = call(monkeypatch, capsys, *study)
    assert code == 2
    assert "2 of 30 images cannot be used" in err
    assert "scratches_3.jpg" in err
    assert "scratches_5.xml" in err
    assert "Traceback" not in err
    assert not (tmp_path / "run").exists()
    code, _, err = call(monkeypatch, capsys, *study, "--on-error", "skip")
    assert code == 0, err
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["data"]["findings"][0].startswith("2 images skipped")
    code, out, err = call(monkeypatch, capsys, "predict", tmp_path / "run", data / "IMAGES")
    assert code == 2
    assert "scratches_3.jpg" in err
    code, out, err = call(
        monkeypatch, capsys, "predict", tmp_path / "run", data / "IMAGES", "--on-error", "skip"
    )
    assert code == 0
    assert len(out.splitlines()) == 30
    assert "1 of 30 files skipped" in err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["reproduce", "surface", "--data", "nowhere"], "nowhere is not a folder"),
        (["reproduce", "surface", "--data", ".", "--epochs", "0"], "epochs = 0: input should be"),
        (["fit", "nowhere"], "nowhere"),
        (["fit", ".", "--trunk", "resnet99"], "trunk = 'resnet99'"),
        (["fit", ".", "--replace-last", "some"], "replace_last"),
        (["predict", "nowhere", "nothing.png"], "nothing.png names no image"),
    ],
)
def test_mistakes_are_one_line_and_exit_code_2(monkeypatch, capsys, tmp_path, words, message):
    monkeypatch.chdir(tmp_path)
    code, _, err = call(monkeypatch, capsys, *words)
    assert code == 2
    assert message in err
    assert err.startswith("error: ")
    assert "Traceback" not in err
    assert os.listdir(tmp_path) == []


def test_a_place_that_cannot_be_written_is_one_line(monkeypatch, capsys, tmp_path):
    (tmp_path / "file").write_text("x")
    data = write_voc(tmp_path / "data")
    code, _, err = call(
        monkeypatch, capsys, "fit", data, *QUICK, "--out", tmp_path / "file" / "run"
    )
    assert code == 2
    assert err.startswith("error: ")
    assert len(err.splitlines()) == 1


def test_several_wrong_settings_are_reported_together(monkeypatch, capsys, tmp_path):
    code, _, err = call(
        monkeypatch, capsys, "fit", tmp_path, "--epochs", "0", "--folds", "1", "--n-qubits", "13"
    )
    assert code == 2
    assert all(name in err for name in ("epochs = 0", "folds = 1", "n_qubits = 13"))
