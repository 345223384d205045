"""Folders and manifests: found out by looking, loaded whole, or refused in one sentence."""

import os
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from qgraft.data.folders import detect_layout, load_images
from qgraft.errors import ConfigError, DataError


def shade(name: str) -> int:
    """Return the grey with which `draw` fills the image of that name."""
    return zlib.crc32(name.encode()) % 251


def draw(root: Path, *names: str) -> Path:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (12, 9), shade(name)).save(path)
    return root


def manifest(root: Path, *lines: str, header: str = "path,label") -> Path:
    (root / "manifest.csv").write_text("\n".join([header, *lines, ""]), newline="")
    return root


# --- layouts -----------------------------------------------------------------------------------


def test_two_class_folders_are_zero_and_one(tmp_path):
    draw(tmp_path, "OK/b.png", "OK/a.bmp", "Defect/z.jpg", "bad/deep/er/y.png")
    assert detect_layout(tmp_path) == "two_class"
    loaded = load_images(tmp_path, size=8).images
    assert loaded.names == ("Defect/z.jpg", "OK/a.bmp", "OK/b.png", "bad/deep/er/y.png")
    assert loaded.class_names == ("normal", "anomalous")
    assert loaded.labels.tolist() == [1, 0, 0, 1]
    assert loaded.groups.tolist() == [0, 1, 2, 3]
    assert loaded.images.shape == (4, 8, 8)
    assert loaded.images[:, 4, 4].tolist() == [shade(name) for name in loaded.names]
    assert loaded.findings == ()


def test_classes_are_sorted_and_nested_folders_belong_to_them(tmp_path):
    draw(tmp_path, "wasp/1.png", "bee/x/normal/2.png", "ant/3.png")
    assert detect_layout(tmp_path) == "classes"
    loaded = load_images(tmp_path, size=5, channels=3)
    assert loaded.images.class_names == ("ant", "bee", "wasp")
    assert loaded.images.labels.tolist() == [0, 1, 2]
    assert loaded.images.images.shape == (3, 5, 5, 3)
    assert loaded.split is None


@pytest.mark.parametrize("words", [("train", "val", "test"), ("Train", "validation", "TEST")])
def test_split_folders_may_lie_on_top(tmp_path, words):
    draw(tmp_path, *(f"{word}/{name}/1.png" for word in words for name in ("bee", "ant")))
    draw(tmp_path, f"{words[2]}/wasp/1.png")  # a class may be missing from a split
    loaded = load_images(tmp_path, size=5)
    assert loaded.images.class_names == ("ant", "bee", "wasp")
    by_name = dict(zip(loaded.images.names, loaded.split or (), strict=True))
    assert by_name[f"{words[0]}/ant/1.png"] == "train"
    assert by_name[f"{words[1]}/bee/1.png"] == "val"
    assert by_name[f"{words[2]}/wasp/1.png"] == "test"


@pytest.mark.parametrize(
    "folders",
    [
        ("IMAGES", "ANNOTATIONS"),
        ("images/crack", "annotations"),
        ("JPEGImages", "Annotations"),
        ("train/images", "train/annotations"),
    ],
)
def test_boxes_are_recognised_and_sent_elsewhere(tmp_path, folders):
    draw(tmp_path, f"{folders[0]}/a.png")
    (tmp_path / folders[1]).mkdir(parents=True)
    (tmp_path / folders[1] / "a.xml").write_text("<annotation/>")
    assert detect_layout(tmp_path) == "voc"
    with pytest.raises(DataError, match=r"Pascal-VOC boxes.*neu_det\.load_photographs"):
        load_images(tmp_path, size=8)


def test_masks_beside_boxes_are_no_class(tmp_path):
    draw(tmp_path, "JPEGImages/a.png", "SegmentationClass/a.png")
    (tmp_path / "Annotations").mkdir()
    assert detect_layout(tmp_path) == "voc"


def test_a_manifest_comes_before_folders(tmp_path):
    draw(tmp_path, "normal/a.png", "bad/b.png")
    assert detect_layout(manifest(tmp_path, "normal/a.png,x", "bad/b.png,y")) == "manifest"
    assert detect_layout(tmp_path / "manifest.csv") == "manifest"
    assert load_images(tmp_path, size=4).images.class_names == ("x", "y")


def test_what_is_left_out_is_said(tmp_path):
    draw(tmp_path, "ok/a.png", "ng/b.png", "stray.png", "ok/.hidden.png", "__MACOSX/ok/a.png")
    (tmp_path / "ok" / "Thumbs.db").write_text("x")
    assert load_images(tmp_path, size=4).images.findings == (
        "1 images outside any class folder left out: stray.png",
        "1 files that are no images left out: ok/Thumbs.db",
    )


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ((), "holds 0 images in 0 class folders; expected are at least two folders"),
        (("a.png", "b.png"), "holds 2 images in 0 class folders"),
        (("ant/a.png", "ant/b.png"), "holds 2 images in 1 class folders"),
        (("train/a.png", "test/b.png"), "holds 2 images in 0 class folders"),
        (("good/a.png", "ok/b.png"), "has 2 normal, 0 anomalous; at least two classes"),
        (("ok/a.png", "bad/b.png", "masks/b.png"), "normal and anomalous images and also masks"),
    ],
)
def test_unusable_trees(tmp_path, names, message):
    with pytest.raises(DataError, match=message):
        load_images(draw(tmp_path, *names), size=4)


@pytest.mark.parametrize("split", ["", "train/"])
def test_empty_class(tmp_path, split):
    draw(tmp_path, f"{split}ant/a.png", f"{split}bee/b.png")
    (tmp_path / split / "wasp").mkdir()
    with pytest.raises(DataError, match="class folders without an image: wasp; remove them"):
        load_images(tmp_path, size=4)


def test_roots_that_are_none(tmp_path):
    (tmp_path / "a.txt").write_text("x")
    for root in (tmp_path / "none", tmp_path / "a.txt", Path("a\0b")):
        with pytest.raises(DataError, match=r"is no folder and no \.csv manifest; check the path"):
            load_images(root, size=4)
    with pytest.raises(ConfigError, match="image size must be 1 to 10000 pixels, got 0"):
        load_images(tmp_path, size=0)


def test_links_may_not_lead_out_or_repeat(tmp_path):
    draw(tmp_path, "secret/s.png")
    root = draw(tmp_path / "data", "ok/a.png", "bad/b.png")
    link = root / "ok" / "link.png"
    link.symlink_to(tmp_path / "secret" / "s.png")
    with pytest.raises(DataError, match=r"link\.png is a link that leaves .*data; put the file"):
        load_images(root, size=4)
    link.unlink()
    link.symlink_to(root / "bad" / "b.png")
    with pytest.raises(DataError, match=r"ok/link\.png and bad/b\.png in .* are one file"):
        load_images(root, size=4)
    link.unlink()
    link.symlink_to(tmp_path / "secret", target_is_directory=True)
    with pytest.raises(DataError, match=r"link\.png is a link to a folder; put the folder itself"):
        load_images(root, size=4)


def test_a_link_to_itself_is_an_unreadable_file(tmp_path):
    draw(tmp_path, "ok/a.png", "bad/b.png")
    (tmp_path / "ok" / "loop.png").symlink_to("loop.png")
    with pytest.raises(DataError, match=r"loop\.png cannot be read \(Too many levels"):
        load_images(tmp_path, size=4)


@pytest.mark.parametrize("name", [b"caf\xe9.png", b"two\nlines.png", b"\x1b[31mred.png"])
def test_names_that_cannot_be_shown(tmp_path, name):
    draw(tmp_path, "ok/a.png", "bad/b.png")
    os.rename(tmp_path / "ok" / "a.png", os.fsencode(tmp_path / "ok") + b"/" + name)
    with pytest.raises(
        DataError, match=r"holds 'ok/.*', which cannot be shown; rename it"
    ) as fault:
        detect_layout(tmp_path)
    assert str(fault.value).isprintable()


# --- manifests ---------------------------------------------------------------------------------


def test_manifest_keeps_order_groups_and_split(tmp_path):
    draw(tmp_path, "a/1.png", "a/2.png", "b 3.png", "4.png")
    manifest(
        tmp_path,
        "4.png,bad,train,s1",
        '"b 3.png",OK,Valid,s2',
        r"a\2.png, ng ,test,s1",
        "",
        "./a/1.png,good,train,s3",
        header="\ufeffPath,label,split,group",
    )
    loaded = load_images(tmp_path, size=4)
    assert loaded.images.names == ("4.png", "b 3.png", "a/2.png", "a/1.png")
    assert loaded.images.labels.tolist() == [1, 0, 1, 0]
    assert loaded.images.groups.tolist() == [0, 1, 0, 2]
    assert loaded.split == ("train", "val", "test", "train")
    assert loaded.images.images[:, 0, 0].tolist() == [shade(name) for name in loaded.images.names]


def test_group_by_overrides_the_manifest(tmp_path):
    draw(tmp_path, "a1.png", "a2.png", "b1.png")
    manifest(tmp_path, "a1.png,x,1", "a2.png,y,2", "b1.png,x,2", header="path,label,group")
    assert load_images(tmp_path, size=4).images.groups.tolist() == [0, 1, 1]
    loaded = load_images(tmp_path, size=4, group_by=lambda name: name[0])
    assert loaded.images.groups.tolist() == [0, 0, 1]


def test_images_with_equal_pixels_share_a_group(tmp_path):
    draw(tmp_path, "a1.png", "a2.png", "b1.png")
    (tmp_path / "copy.png").write_bytes((tmp_path / "a1.png").read_bytes())
    manifest(tmp_path, "a1.png,x", "a2.png,y", "b1.png,x", "copy.png,y")
    images = load_images(tmp_path, size=4).images
    assert images.groups[0] == images.groups[3]
    assert len(set(images.groups)) == 3
    assert "1 images have the pixels of another; kept in its group" in images.findings


STAY = "must be relative and stay inside the manifest's folder"


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("/etc/passwd,x", STAY),
        ("../a.png,x", STAY),
        ("sub/../../a.png,x", STAY),
        (r"..\a.png,x", STAY),
        (r"C:\a.png,x", STAY),
        ("c:a.png,x", STAY),
        (r"\\host\share\a.png,x", STAY),
        (",x", STAY),
        (".,x", STAY),
        ("a\0.png,x", r"path 'a\\x00\.png' has control characters"),
        ("a.png,\x1b[2J", "label .* has control characters"),
        ("a.png,", "the label is empty; fill it in"),
        ("a.png", "1 cells under 2 columns; quote the commas"),
        ("a.png,x,y", "3 cells under 2 columns"),
        ("ok.png,y", "'ok.png' is listed before; keep one row for each image"),
        ("./ok.png,y", "'ok.png' is listed before"),
    ],
)
def test_faulty_rows_are_named_by_line(tmp_path, row, message):
    draw(tmp_path, "ok.png")
    with pytest.raises(DataError, match=rf"has 1 faulty row:\n  line 3: .*{message}"):
        load_images(manifest(tmp_path, "ok.png,x", row), size=4)


def test_all_faulty_rows_are_counted_and_ten_shown(tmp_path):
    rows = [f"{i}.png,x,holdout" for i in range(25)]
    manifest(tmp_path, *rows, header="path,label,split")
    with pytest.raises(
        DataError, match=r"25 faulty rows:\n.*unknown split 'holdout'; use"
    ) as fault:
        load_images(tmp_path, size=4)
    assert str(fault.value).count("line ") == 10
    assert str(fault.value).endswith("and 15 more")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"has the columns \[\]: missing \['path', 'label'\]; the first line must name"),
        (b"path,klass\n", r"missing \['label'\]"),
        (b"path,label,splits\n", r"unknown or repeated \['splits'\]"),
        (b"path,label,label\n", "unknown or repeated"),
        (b"path,label\n\xff\xfe,x\n", "is not a readable CSV file in UTF-8"),
        (b'path,label\n"a.png,x\n', "is not a readable CSV file"),
        (b"path,label\n" + b"a" * 200_000 + b",x\n", "is not a readable CSV file .*field larger"),
        (b"path,label\n", "has no images; at least two classes need images"),
        (b"path,label\na.png,x\n", "has 1 x; at least two classes need images"),
        (b"path,label,group\na.png,x,\n", "the group is empty"),
    ],
)
def test_unusable_manifests(tmp_path, content, message):
    (tmp_path / "list.csv").write_bytes(content)
    with pytest.raises(DataError, match=rf"list\.csv[^;]*{message}"):
        load_images(tmp_path / "list.csv", size=4)


def test_manifest_limits(tmp_path, monkeypatch):
    with (tmp_path / "manifest.csv").open("wb") as huge:
        huge.truncate(50_000_001)
    with pytest.raises(DataError, match="larger than 50 MB; split the data set"):
        load_images(tmp_path, size=4)
    monkeypatch.setattr("qgraft.data.manifest.MAX_ROWS", 2)
    with pytest.raises(DataError, match="more than 2 rows; split the data set"):
        load_images(manifest(tmp_path, "a,x", "b,x", "c,y"), size=4)


def test_manifest_paths_may_not_leave_through_links(tmp_path):
    draw(tmp_path, "secret/s.png")
    root = draw(tmp_path / "data", "a.png")
    (root / "sub").symlink_to(tmp_path / "secret", target_is_directory=True)
    with pytest.raises(DataError, match=r"sub/s\.png is a link that leaves"):
        load_images(manifest(root, "a.png,x", "sub/s.png,y"), size=4)


# --- broken files ------------------------------------------------------------------------------


def test_a_thousand_files_with_fifty_broken(tmp_path):
    for label in ("ok", "bad"):
        (tmp_path / label).mkdir()
    good = draw(tmp_path, "x.png") / "x.png"
    content = good.read_bytes()
    broken = {f"{'ok' if i % 2 else 'bad'}/{i:03}.png" for i in range(0, 1000, 20)}
    for i in range(1000):
        name = f"{'ok' if i % 2 else 'bad'}/{i:03}.png"
        (tmp_path / name).write_bytes(content[:40] if name in broken else content)
    good.unlink()
    with pytest.raises(DataError, match="has 50 unreadable files:") as fault:
        load_images(tmp_path, size=4)
    assert str(fault.value).count("is damaged") == 10
    assert "and 40 more" in str(fault.value)
    assert str(fault.value).endswith("--on-error skip")

    loaded = load_images(tmp_path, size=4, on_error="skip").images
    assert len(loaded) == 950
    assert not broken & set(loaded.names)
    assert loaded.findings[0].startswith(f"50 files skipped: {tmp_path / 'bad/000.png'} is damaged")
    assert (loaded.images == shade("x.png")).all()


def test_missing_files_and_classes_skipped_away(tmp_path):
    draw(tmp_path, "a.png", "b.png")
    manifest(tmp_path, "a.png,x", "b.png,x", "gone.png,y")
    with pytest.raises(
        DataError, match=r"1 unreadable file:\n.*gone\.png cannot be read \(No such"
    ):
        load_images(tmp_path, size=4)
    with pytest.raises(DataError, match="has 2 x; at least two classes need images"):
        load_images(tmp_path, size=4, on_error="skip")


def test_forbidden_formats_are_reported_not_passed_over(tmp_path):
    draw(tmp_path, "ok/a.png", "bad/b.gif", "bad/c.tif")
    with pytest.raises(DataError, match=r"2 unreadable files:\n.*holds GIF.*\n.*holds TIFF"):
        load_images(tmp_path, size=4)
    (tmp_path / "bad" / "b.gif").unlink()
    assert len(load_images(tmp_path, size=4, allow_tiff=True).images) == 2


def test_images_beyond_the_memory(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise MemoryError

    draw(tmp_path, "ok/a.png", "bad/b.png")
    monkeypatch.setattr(np, "zeros", refuse)
    with pytest.raises(DataError, match="2 images of 4 pixels exceed the memory; lower the image"):
        load_images(tmp_path, size=4)


def test_same_folder_same_digest(tmp_path):
    draw(tmp_path, *(f"{label}/{i}.png" for label in ("ok", "bad") for i in range(40)))
    digests = {load_images(tmp_path, size=6).images.digest() for _ in range(3)}
    assert len(digests) == 1


@pytest.mark.real_data
def test_public_sets(real_data):
    assert detect_layout(real_data / "neu-det") == "voc"
    loaded = load_images(real_data / "hymenoptera", size=32, channels=3)
    assert loaded.images.class_names == ("ants", "bees")
    counts = {split: (loaded.split or ()).count(split) for split in ("train", "val")}
    assert counts == {"train": 244, "val": 153}
