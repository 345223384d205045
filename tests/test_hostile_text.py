"""Annotations, settings, manifests, results and names from strangers: a value or a clear error."""

import csv
import io
import json
import os
import random
import string
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qgraft.config import TrainingConfig, resolve
from qgraft.data.annotations import parse_annotation
from qgraft.data.manifest import read_manifest
from qgraft.errors import AnnotationError, ConfigError, DataError, QgraftError, RunError
from qgraft.reports import rundir
from qgraft.reports.rundir import _arrays, read_run
from qgraft.studies.lock import unlock_folder
from qgraft.studies.predict import load_fitted
from qgraft.studies.run import open_run
from qgraft.training.checkpoint import read_json, write_json

# --- VOC XML -----------------------------------------------------------------------------------

VOC = b"""<?xml version="1.0" encoding="utf-8"?>
<annotation><folder>a</folder><filename>steel_1.jpg</filename><source><database>x</database></source>
<size><width>200</width><height>100</height><depth>1</depth></size><segmented>0</segmented>
<object><name>scratches</name><pose>Unspecified</pose><bndbox><xmin>1</xmin><ymin>2</ymin>
<xmax>200</xmax><ymax>100</ymax></bndbox></object>
<object><name>inclusion</name><bndbox><xmin>20</xmin><ymin>2</ymin><xmax>30</xmax><ymax>9</ymax>
</bndbox></object></annotation>"""
PIECES = [
    b"<", b">", b"</", b"&", b"&lt;", b"&#0;", b"&#x10FFFF;", b"-", b"+", b"9" * 12, b"\0", b"\xff",
    b"\xc3", b"<!DOCTYPE x>", b"<!ENTITY a 'b'>", b"<![CDATA[", b"]]>", b"<!--", b"-->", b"<?x ?>",
    b".", b"e9", b"0x1", b" ", b"\n", "\u0661".encode(), b"<xmin>1</xmin>", b"<object>",
    b"</object>", b"<bndbox/>", b"<name/>", b"UTF-16", b"x" * 300, b"xmlns:a='b'", b"a:",
]  # fmt: skip


def mutated(rng, data, pieces):
    """Replace, insert, repeat, swap or drop a few pieces."""
    changed = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(changed) + 1)
        kind = rng.random()
        if kind < 0.6:
            changed[at : at + rng.randint(0, 4)] = rng.choice(pieces)
        elif kind < 0.75:
            changed[at : at + 1] = bytes([rng.randrange(256)])
        elif kind < 0.9:
            start = rng.randrange(len(changed) + 1)
            changed[at:at] = changed[start : start + rng.randint(1, 60)]
        else:
            del changed[at : at + rng.randint(1, 40)]
    return bytes(changed)


def test_mutated_annotations(mutants):
    rng, good, longest, number = random.Random(12), 0, 0, mutants(40_000)
    for _ in range(number):
        try:
            annotation = parse_annotation(mutated(rng, VOC, PIECES), "x")
        except AnnotationError as error:
            said = str(error)
            longest = max(longest, len(said.removeprefix("x: ")))
            continue
        good += 1
        for box in annotation.boxes:
            assert 0 <= box.x0 < box.x1 <= annotation.width <= 10_000
            assert 0 <= box.y0 < box.y1 <= annotation.height <= 10_000
            assert box.label
    assert 0.005 < good / number < 0.9
    assert longest < 600


# --- settings ----------------------------------------------------------------------------------

ODD = [
    None, True, -1, 0, 1, 7, 10**19, 10**5000, -0.0, 1.5, 1e308, float("nan"), float("inf"), "",
    "7", "cm2", "cm2,cm3", "\ud800", "\0", "é" * 1000, "../..", [], ["cm1"], ["cm1", "cm1"], {},
    {"a": 1}, (), b"\xff", {1, 2}, object, Path("x"), 1j, "paper", "clean", "all", ["a", "b"],
]  # fmt: skip
KINDS = TrainingConfig.__subclasses__()
FIELDS = sorted({name for kind in KINDS for name in kind.model_fields})
NAMES = [*FIELDS, "epoch", "__class__", "model_config", "", "a" * 500, "\ud800"]


def check_settings(kind, values):
    try:
        config = resolve(kind, values)
    except ConfigError as error:
        said = str(error)
        return pytest.fail(said) if len(said) > 1000 * (len(values) + 3) else None
    return json.loads(json.dumps(config.model_dump(mode="json"), allow_nan=False))


def test_odd_settings_are_valid_or_refused_all_at_once(mutants):
    rng, good = random.Random(13), 0
    for turn in range(mutants(5000)):
        names = rng.sample(NAMES, rng.randint(0, 4))
        values = {"data": "x"} | {name: rng.choice(ODD) for name in names}
        good += bool(check_settings(KINDS[turn % len(KINDS)], values))
    assert good


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from(KINDS),
    st.dictionaries(
        st.sampled_from(NAMES),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
            lambda inner: (
                st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3)
            ),
            max_leaves=5,
        ),
        max_size=5,
    ),
)
def test_any_settings_are_valid_or_refused(kind, values):
    check_settings(kind, values)


# --- JSON, arrays and tables -------------------------------------------------------------------

ROW = {
    "model": "CM-2", "variant": "QTL-M-1", "replaced": 2, "n_features": 256, "params": 10,
    "trainable": 5, "removed": 3, "head_params": 4, "reduction_whole": 0.1, "reduction_block": None,
    "f1_mean": 0.9, "f1_std": 0.1, "f1_best": 1.0, "accuracy_mean": 0.9, "accuracy_std": 0.1,
    "precision_mean": 0.9, "recall_mean": 0.9, "auc_mean": None, "confusion": [[1, 2], [3, 4]],
    "n_folds": 3, "scored_on": "x", "fold_f1_mean": 0.5,
}  # fmt: skip
RESULT = {
    "study": "surface", "protocol": "clean", "rows": [ROW], "notes": ["a"],
    "shortcut_control": {"f1": 0.5, "auc": 0.5, "label": "x"},
    "data": {"n_images": 4, "class_names": ["normal", "anomalous"], "findings": []},
}  # fmt: skip
MODEL = {
    "trunk": "cm2", "trunk_file": "trunks/w.safetensors", "head": "dressed", "head_options": {},
    "head_file": "heads/w.safetensors", "replace_last": 2, "channels": 1,
    "class_names": ["normal", "anomalous"],
}  # fmt: skip
JSON_PIECES = [
    b"[", b"]", b"{", b"}", b":", b",", b'"', b"null", b"NaN", b"1e999", b"-1", b"9" * 5000,
    b"\xff", b"\\ud800", b"true", b"0.5", b"[" * 3000, b"\0",
    b'"../../x"', b'"/dev/zero"', b" " * 99,
]  # fmt: skip


def test_mutated_results(tmp_path, mutants):
    rng, good = random.Random(14), 0
    text = json.dumps(RESULT).encode()
    file = tmp_path / "result.json"
    file.write_bytes(text)
    assert read_run(tmp_path).result["study"] == "surface"
    for _ in range(mutants(800)):
        file.write_bytes(mutated(rng, text, JSON_PIECES))
        try:
            read_run(tmp_path)
        except RunError:
            continue
        good += 1
    assert good


def test_mutated_models_never_crash_the_loader(tmp_path, mutants):
    rng = random.Random(15)
    write_json(tmp_path / "result.json", RESULT)
    models = json.dumps({"CM-2/QTL-M-1": MODEL}).encode()
    for turn in range(mutants(150)):
        if turn % 2:
            (tmp_path / "models.json").write_bytes(mutated(rng, models, JSON_PIECES))
        else:
            odd = rng.choice(
                [None, 10**12, -1, 0, "x", [], {"a": 1}, "/dev/zero", [1, 2], [""] * 3]
            )
            changed = {**MODEL, rng.choice(list(MODEL)): odd}
            write_json(tmp_path / "models.json", {"CM-2/QTL-M-1": changed})
        with pytest.raises(QgraftError):
            load_fitted(tmp_path)


def test_mutated_arrays(tmp_path, mutants):
    rng, good = random.Random(16), 0
    buffer = io.BytesIO()
    np.savez_compressed(buffer, images=np.zeros((2, 4, 4), np.uint8), scores=np.ones(5))
    file = tmp_path / "x.npz"
    for _ in range(mutants(1500)):
        file.write_bytes(
            mutated(rng, buffer.getvalue(), [b"PK\x03\x04", b"\xff", b"\0" * 4, b"9" * 9])
        )
        try:
            arrays = _arrays(file)
        except RunError:
            continue
        good += 1
        assert all(isinstance(array, np.ndarray) for array in arrays.values())
    assert good


def test_arrays_that_promise_too_much(tmp_path, monkeypatch):
    import zipfile

    file = tmp_path / "x.npz"
    header = b"{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000000,), }"
    array = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header
    for members in ({"images.npy": array}, {"images": b"no array"}):
        with zipfile.ZipFile(file, "w") as archive:
            for name, content in members.items():
                archive.writestr(name, content)
        with pytest.raises(RunError, match="is not a readable npz file"):
            _arrays(file)
    with (
        zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("a.npy", "w") as a,
    ):
        a.write(bytes(2**22))
    monkeypatch.setattr(rundir, "MAX_ARRAY_BYTES", 2**21)
    with pytest.raises(RunError, match=r"unpacks to 4,194,304 bytes, more than 2,097,152"):
        _arrays(file)


@pytest.mark.parametrize("text", ["[" * 200_000, '{"a":' * 100_000, "9" * 10_000, "nul", ""])
def test_json_that_is_none(tmp_path, text):
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(RunError, match="is not valid JSON"):
        read_json(tmp_path / "x.json")


def test_large_json(tmp_path):
    file = tmp_path / "x.json"
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(RunError, match="is not valid JSON"):
        read_json(file)
    with file.open("wb") as huge:
        huge.truncate(300_000_000)
    with pytest.raises(RunError, match="300,000,000 bytes, more than 200,000,000"):
        read_json(file)


def test_mutated_manifests(tmp_path, mutants):
    rng, good = random.Random(17), 0
    table = io.StringIO()
    writer = csv.writer(table)
    writer.writerows(
        [["path", "label", "group", "split"], ["a/1.png", "normal", "g1", "train"],
         ["a/2.png", "anomalous", "g2", "test"], ["b c/é.png", "normal", "g3", "val"]]
    )  # fmt: skip
    pieces = [
        b",", b'"', b"\n", b"\r", b"..", b"../", b"/", b"\\", b"C:", b"\0", b"\xff", b"~", b"//h/s",
        "‥/".encode(), "\uff0f".encode(), b"=1+1", b"path", b" ", b"x" * 300, b"\xef\xbb\xbf",
    ]  # fmt: skip
    file = tmp_path / "manifest.csv"
    for _ in range(mutants(3000)):
        file.write_bytes(mutated(rng, table.getvalue().encode(), pieces))
        try:
            entries = read_manifest(file)
        except DataError:
            continue
        good += 1
        for entry in entries:
            inside = os.path.normpath(tmp_path / entry.name)
            assert Path(inside).is_relative_to(tmp_path)
            assert inside != str(tmp_path)
    assert good


# --- names of run directories ------------------------------------------------------------------

ALPHABET = string.ascii_letters + "./\\ \0\n\t~$*?-=‥\uff0fé\u202e\ud800"
NAMES_OF_RUNS = [
    "run", "a b", "ü", "..", "../x", "a/../b", "-x", "~", "$HOME", "*", "x" * 255, "x" * 256,
    "a\0b", "a\nb", "\u202eevil", "‥", "\uff0fetc", "\udcff", "a/" * 30 + "b", "x/" * 3000, ".", "",
]  # fmt: skip


def try_run(root, name):
    """Open a run and return whether it worked; whatever happens, nothing leaves `root`."""
    folder = root / "inside" / name
    try:
        open_run(folder, {"study": "x"}, resume=False)
    except (QgraftError, OSError):
        return False
    unlock_folder(folder)
    found = {path.relative_to(folder).parts[0] for path in folder.iterdir()}
    assert {"config.json", "env.json", ".lock"} <= found
    return True


def test_names_of_run_directories(tmp_path, monkeypatch, mutants):
    monkeypatch.setattr("qgraft.studies.run.environment", dict)
    (tmp_path / "inside").mkdir()
    worked = {name: try_run(tmp_path, name) for name in NAMES_OF_RUNS}
    assert not worked["x" * 256]
    assert not worked["a\0b"]
    assert not worked["x/" * 3000]
    assert worked["run"]
    rng = random.Random(18)
    for _ in range(mutants(100)):
        name = "".join(rng.choices(ALPHABET, k=rng.randint(1, 30))).lstrip("/").replace("..", "‥")
        try_run(tmp_path, name)
    assert {path.name for path in tmp_path.iterdir()} <= {
        "inside",
        "x",
        "config.json",
        "env.json",
        ".lock",
    }


def test_a_run_folder_that_is_a_link_is_the_folder_it_names(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    open_run(tmp_path / "link", {"study": "x"}, resume=False)
    assert (tmp_path / "real" / "config.json").exists()
    unlock_folder(tmp_path / "real")
    (tmp_path / "real" / ".lock").unlink()
    (tmp_path / "real" / ".lock").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="symbolic links"):
        open_run(tmp_path / "link", {"study": "x"}, resume=True)
    assert not (tmp_path / "elsewhere").exists()
