"""Whole folders in every layout, from files to findings, to the command line and the report."""

import json
import re
import sys

import numpy as np
import pytest
from PIL import Image

from qgraft import cli
from qgraft.data.synthetic import synthetic_steel
from qgraft.errors import ConfigError, DataError
from qgraft.evaluation.audit import Splitting, audit_data
from qgraft.reports.html import render_page
from qgraft.reports.rundir import FinishedRun

THREE_FOLDS = Splitting(n_folds=3)


def texture(rng, size=(40, 40)):
    return rng.integers(60, 190, size).astype(np.uint8)


def write_images(root, folders, n=30, size=(40, 40)):
    """Write `n` PNG files of noise into each folder."""
    rng = np.random.default_rng(len(folders))
    for folder in folders:
        (root / folder).mkdir(parents=True)
        for i in range(n):
            Image.fromarray(texture(rng, size)).save(root / folder / f"{i:02d}.png")
    return root


def voc(name, boxes, side):
    objects = "".join(
        f"<object><name>{box.label}</name><bndbox><xmin>{box.x0 + 1}</xmin><ymin>{box.y0 + 1}"
        f"</ymin><xmax>{box.x1}</xmax><ymax>{box.y1}</ymax></bndbox></object>"
        for box in boxes
    )
    return (
        f"<annotation><filename>{name}.png</filename><size><width>{side}</width>"
        f"<height>{side}</height></size>{objects}</annotation>"
    )


def write_boxed(root, per_defect=7, side=120):
    """Write the embedded set as photographs with Pascal-VOC boxes."""
    photographs = synthetic_steel(per_defect, size=side, seed=2)
    (root / "IMAGES").mkdir(parents=True)
    (root / "ANNOTATIONS").mkdir()
    rows = zip(photographs.names, photographs.images, photographs.boxes, strict=True)
    for name, image, boxes in rows:
        Image.fromarray(image).save(root / "IMAGES" / f"{name}.png")
        (root / "ANNOTATIONS" / f"{name}.xml").write_text(voc(name, boxes, side))
    return root


def only(findings):
    (finding,) = findings
    return finding["kind"], finding["where"]


LAYOUTS = (
    ("normal", "anomalous"),
    ("crack", "dent", "good_part"),
    ("train/ants", "train/bees", "val/ants", "val/bees", "test/ants", "test/bees"),
)


@pytest.mark.parametrize("folders", LAYOUTS, ids=lambda f: f[0])
def test_clean_folders_give_no_finding(tmp_path, folders):
    assert audit_data(write_images(tmp_path, folders), THREE_FOLDS) == []


def write_manifest(root, rows):
    lines = ["path,label,group,split", *(",".join(map(str, row)) for row in rows)]
    (root / "manifest.csv").write_text("\n".join(lines))


def manifest_rows(split=lambda i: "test" if i % 5 == 0 else "train"):
    return [
        [f"{folder}/{i:02d}.png", folder, f"{folder}{i}", split(i)]
        for folder in ("ok", "scratched")
        for i in range(30)
    ]


def test_manifest_with_a_group_in_two_splits(tmp_path):
    write_images(tmp_path, ("ok", "scratched"))
    rows = manifest_rows()
    write_manifest(tmp_path, rows)
    assert audit_data(tmp_path, THREE_FOLDS) == []
    rows[5][2] = rows[6][2]  # row 5 is in test, row 6 in train
    write_manifest(tmp_path, rows)
    (finding,) = audit_data(tmp_path / "manifest.csv", THREE_FOLDS)
    assert (finding["kind"], finding["where"]) == ("shared_photographs", ["ok/05.png"])
    assert (
        "1 of 12 test images from photographs (groups) that are also in train"
        in (finding["message"])
    )


def test_given_splits_that_share_pixels(tmp_path):
    write_images(tmp_path, LAYOUTS[2])
    (tmp_path / "test/bees/04.png").write_bytes((tmp_path / "train/bees/11.png").read_bytes())
    found = audit_data(tmp_path, THREE_FOLDS)
    assert only(found) == ("shared_images", ["test/bees/04.png = train/bees/11.png"])


def test_given_splits_that_share_a_turned_image(tmp_path):
    write_images(tmp_path, LAYOUTS[2])
    image = np.array(Image.open(tmp_path / "val/ants/11.png"))
    Image.fromarray(np.rot90(image)).save(tmp_path / "test/ants/04.png")
    found = audit_data(tmp_path, THREE_FOLDS)
    assert only(found) == ("near_duplicates", ["test/ants/04.png ~ val/ants/11.png"])


def test_damaged_file(tmp_path):
    root = write_images(tmp_path, LAYOUTS[0])
    broken = root / "normal/03.png"
    broken.write_bytes(broken.read_bytes()[:200])
    (finding,) = audit_data(root, THREE_FOLDS)
    assert (finding["kind"], finding["severity"]) == ("unreadable_files", "high")
    assert finding["where"] == ["normal/03.png"]
    assert re.match("1 file left out.*damaged and cannot be decoded", finding["message"])


def test_size_mode_and_blank(tmp_path):
    root = write_images(tmp_path, LAYOUTS[0])
    rng = np.random.default_rng(9)
    Image.fromarray(texture(rng, (40, 52))).save(root / "normal/03.png")
    Image.fromarray(texture(rng, (40, 40, 3))).save(root / "anomalous/04.png")
    Image.new("L", (40, 40), 90).save(root / "normal/05.png")
    found = {f["kind"]: f["where"] for f in audit_data(root, THREE_FOLDS)}
    assert found == {
        "deviating_sizes": ["normal/03.png: 52 x 40"],
        "deviating_modes": ["anomalous/04.png"],
        "blank_images": ["normal/05.png"],
    }


def test_photographs_of_all_sizes_are_no_fault_but_an_icon_is(tmp_path):
    rng = np.random.default_rng(0)
    for folder in LAYOUTS[0]:
        (tmp_path / folder).mkdir()
        for i in range(30):
            size = rng.integers(80, 200, 2)
            Image.fromarray(texture(rng, size)).save(tmp_path / folder / f"{i:02d}.png")
    assert audit_data(tmp_path, THREE_FOLDS) == []
    Image.fromarray(texture(rng, (16, 16))).save(tmp_path / "normal/07.png")
    found = audit_data(tmp_path, THREE_FOLDS)
    assert only(found) == ("deviating_sizes", ["normal/07.png: 16 x 16"])


def test_image_size_as_a_shortcut(tmp_path):
    write_images(tmp_path, ("normal",), size=(60, 60))
    write_images(tmp_path, ("anomalous",), size=(40, 40))
    assert only(audit_data(tmp_path, THREE_FOLDS)) == ("shortcut_size", ["normal"])


def test_too_few_images_to_split(tmp_path):
    (finding,) = audit_data(write_images(tmp_path, LAYOUTS[0], n=4))
    assert (finding["kind"], finding["severity"]) == ("unsplittable", "high")
    assert "needs at least 5" in finding["message"]


def test_paper_protocol_on_folders(tmp_path):
    found = audit_data(write_images(tmp_path, LAYOUTS[0]), Splitting("paper", n_folds=3))
    assert [f["kind"] for f in found] == ["seen_by_trunk"]


def test_options_that_do_not_fit(tmp_path):
    root = write_images(tmp_path / "a", LAYOUTS[0])
    with pytest.raises(ConfigError, match="--classes and --per-class go with images that have"):
        audit_data(root, classes=["x"])
    root = write_images(tmp_path / "b", LAYOUTS[2], n=8)
    with pytest.raises(ConfigError, match="splits of their own"):
        audit_data(root, Splitting("paper"))
    with pytest.raises(DataError, match="no folder and no"):
        audit_data(tmp_path / "nowhere")


# ---- photographs with boxes


@pytest.fixture(scope="module")
def boxed(tmp_path_factory):
    return write_boxed(tmp_path_factory.mktemp("boxed") / "clean")


@pytest.fixture
def spoiled(boxed, tmp_path):
    import shutil

    return shutil.copytree(boxed, tmp_path / "spoiled")


def test_clean_photographs_give_no_finding(boxed):
    assert audit_data(boxed, THREE_FOLDS, classes=["scratches", "patches"]) == []
    seen = []
    assert audit_data(boxed, THREE_FOLDS, progress=lambda *state: seen.append(state)) == []
    assert seen[0][2] == "28 of 28 images read"  # the four classes of the study
    assert seen[-1][:2] == (1.0, 1.0)


def test_paper_protocol_on_photographs(boxed):
    found = audit_data(boxed, Splitting("paper", n_folds=3))
    kinds = {f["kind"] for f in found}
    assert {"shared_photographs", "seen_by_trunk", "shortcut_size"} <= kinds


def test_spoiled_photographs(spoiled):
    notes, images = spoiled / "ANNOTATIONS", spoiled / "IMAGES"
    text = (notes / "patches_2.xml").read_text()
    (notes / "patches_2.xml").write_text(text.replace("<name>patches", "<name>inclusion", 1))
    text = (notes / "scratches_1.xml").read_text()
    (notes / "scratches_1.xml").write_text(re.sub(r"<xmax>\d+", "<xmax>121", text, count=1))
    (notes / "scratches_3.xml").unlink()
    (notes / "scratches_99.xml").write_text("<annotation/>")
    (images / "inclusion_4.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    Image.fromarray(np.array(Image.open(images / "patches_5.png")).T).save(images / "patches_6.png")
    found = {f["kind"]: f["where"] for f in audit_data(spoiled, THREE_FOLDS)}
    pair = found.pop("near_duplicates")
    assert set(pair[0].split(" ~ ")) == {"patches_5", "patches_6"}
    assert found.pop("boxes_outside")[0].startswith("scratches_1 box 1: scratches")
    assert found == {
        "mislabelled_boxes": ["patches_2 box 1: inclusion"],
        "stray_annotations": ["scratches_99"],
        "unreadable_annotations": ["scratches_3"],
        "unreadable_files": ["inclusion_4"],
    }


def test_photographs_without_room_for_normal_crops(tmp_path):
    root = write_boxed(tmp_path, per_defect=2)
    for path in (root / "ANNOTATIONS").iterdir():
        whole = "<xmin>1</xmin><ymin>1</ymin><xmax>110</xmax><ymax>110</ymax>"
        boxes = re.sub(r"<xmin>.*?</ymax>", whole, path.read_text(), count=1)
        path.write_text(boxes)
    found = audit_data(root, THREE_FOLDS, classes=["scratches"])
    (finding,) = [f for f in found if f["kind"] == "unsplittable"]
    assert "no photograph has a box-free square" in finding["message"]


# ---- command line


def call(monkeypatch, capsys, *words):
    monkeypatch.setattr(sys, "argv", ["qgraft", *map(str, words)])
    try:
        cli.main()
        code = 0
    except SystemExit as stop:
        code = stop.code or 0
    printed = capsys.readouterr()
    return code, printed.out, printed.err


def test_command_line_on_clean_data(tmp_path, monkeypatch, capsys):
    root = write_images(tmp_path / "data", LAYOUTS[0])
    code, out, err = call(monkeypatch, capsys, "audit", root, "--strict", "--folds", 3)
    assert (code, out.strip()) == (0, "nothing found")
    assert "audited" in err


def test_command_line_on_spoiled_data(tmp_path, monkeypatch, capsys):
    root = write_images(tmp_path / "data", LAYOUTS[0])
    hostile = "normal/[red]x[" + "/red].png"
    (root / "normal" / "[red]x[").mkdir()
    (root / hostile).write_bytes(b"GIF89a")
    command = ("audit", root, "--folds", 3)
    code, out, _ = call(monkeypatch, capsys, *command, "--json", tmp_path / "f.json")
    assert code == 0
    assert "high" in out
    assert hostile in out
    assert "1 finding: 1 high" in out
    findings = json.loads((tmp_path / "f.json").read_text())["findings"]
    assert only(findings) == ("unreadable_files", [hostile])
    assert set(findings[0]) == {"kind", "severity", "where", "message"}
    code, out, err = call(monkeypatch, capsys, *command, "--strict", "--json", "-")
    assert code == 1
    assert json.loads(out)["findings"] == findings
    assert "1 finding: 1 high" in err


def test_command_line_refuses(tmp_path, monkeypatch, capsys):
    code, _, err = call(monkeypatch, capsys, "audit", tmp_path / "none")
    assert code == 2
    assert "no folder and no .csv manifest" in err
    root = write_images(tmp_path / "data", LAYOUTS[0])
    code, _, err = call(monkeypatch, capsys, "audit", root, "--json", tmp_path)
    assert code == 2
    assert "is a folder" in err


# ---- report


def page(audit):
    result = {
        "study": "fit",
        "protocol": "clean",
        "rows": [ROW],
        "shortcut_control": None,
        "notes": [],
        "data": {"n_images": 3, "class_names": ["a", "b"], "findings": []},
    }
    result |= {} if audit is None else {"audit": audit}
    return render_page(FinishedRun(result, {}, {}, {}, {}, {}, {}, {}, (), ()), [])


ROW = {
    "model": "CM-1", "variant": "classical", "replaced": 0, "n_features": 0, "params": 9,
    "trainable": 9, "removed": 0, "head_params": 0, "reduction_whole": None,
    "reduction_block": None, "f1_mean": 0.5, "f1_std": 0.0, "f1_best": 0.5,
    "accuracy_mean": 0.5, "accuracy_std": 0.0, "precision_mean": 0.5, "recall_mean": 0.5,
    "auc_mean": 0.5, "confusion": [[1, 1], [1, 1]], "n_folds": 1, "scored_on": "test",
}  # fmt: skip


def test_report_section():
    where = [f"<b>{i}</b>" for i in range(200)]
    found = {"kind": "shared_images", "severity": "high", "where": where, "message": "x <i>y</i>"}
    text = page([found])
    assert '<a href="#audit">' in text
    assert '<span class="severity high">high</span>' in text
    assert "X &lt;i&gt;y&lt;/i&gt;." in text
    assert "&lt;b&gt;2&lt;/b&gt; and 197 more" in text
    assert "&lt;b&gt;102&lt;/b&gt;; and 97 more" in text
    assert "<b>0" not in text


def test_report_without_findings_and_of_older_runs():
    assert "Nothing found: no image on both sides" in page([])
    assert 'id="audit"' not in page(None)
    assert 'href="#audit"' not in page(None)


# ---- public data


@pytest.mark.real_data
def test_known_faults_of_neu_det(real_data):
    found = {f["kind"]: f for f in audit_data(real_data / "neu-det")}
    assert set(found) == {
        "mislabelled_boxes", "near_duplicates", "repeated_boxes", "repeated_images",
    }  # fmt: skip
    assert len(found["mislabelled_boxes"]["where"]) == 73 + 52  # scratches and patches
    assert found["repeated_images"]["where"] == ["patches_105 = patches_101"]
    places = [place.split()[0] for place in found["repeated_boxes"]["where"]]
    assert places == ["inclusion_62", "patches_198"]


@pytest.mark.real_data
def test_other_classes_of_neu_det(real_data):
    classes = ["crazing", "pitted_surface"]
    found = {f["kind"]: f["where"] for f in audit_data(real_data / "neu-det", classes=classes)}
    assert len(found["mislabelled_boxes"]) == 63
    assert len(found["whole_image_boxes"]) == 62  # with the pixels of both edges
    assert [place.split()[0] for place in found["repeated_boxes"]] == ["crazing_120"]


@pytest.mark.real_data
def test_ants_and_bees(real_data):
    (finding,) = audit_data(real_data / "hymenoptera")
    assert finding["kind"] == "deviating_modes"
    assert finding["where"] == ["val/bees/290082189_f66cb80bfc.jpg"]
