"""What the pages of the smaller studies share."""

import json

import pytest
from typing_extensions import TypedDict

from qgraft.errors import RunError
from qgraft.reports.page import checked_result, embedded, read_settings, render_page

PAGES = ("distill", "new_defect", "qcnn", "transfer")


class Numbers(TypedDict):
    rows: list[int]


@pytest.mark.parametrize(("content", "place"), [
    ('{"rows": [1, "x"]}', r"result\.json: rows\.1: .*run again"),
    ("{}", r"result\.json: rows: Field required"),
    ("[]", r"result\.json: the whole file: .*damaged or of another study"),
])  # fmt: skip
def test_a_damaged_result_is_named_with_its_place(tmp_path, content, place):
    (tmp_path / "result.json").write_text(content)
    with pytest.raises(RunError, match=place):
        checked_result(tmp_path, Numbers)
    (tmp_path / "result.json").write_text('{"rows": [1], "more": 2}')
    assert checked_result(tmp_path, Numbers)["rows"] == [1]


def test_a_missing_result_is_an_error_for_the_user(tmp_path):
    with pytest.raises(RunError):
        checked_result(tmp_path, Numbers)


def test_a_page_has_the_style_and_the_command_of_the_run(tmp_path):
    assert read_settings(tmp_path) == {}
    (tmp_path / "config.json").write_text(json.dumps({"command": "qgraft <b>", "seed": 7}))
    page = render_page(
        "transfer.html.j2", tmp_path, title="T", sentences=["S & s."], notes=[], columns=(),
        rows=[], facts=[], figures=[("F", "c", embedded("<svg/>"))], has_best=False,
    )  # fmt: skip
    assert "--accent" in page  # of the one style sheet
    assert "qgraft &lt;b&gt;" in page
    assert "seed (7)" in page
    assert 'src="data:image/svg+xml;base64,PHN2Zy8+"' in page


@pytest.mark.parametrize("name", PAGES)
def test_every_page_waits_for_the_style(name):
    from importlib import resources

    text = resources.files("qgraft.reports").joinpath(f"{name}.html.j2").read_text("utf-8")
    assert text.count("<style></style>") == 1
    assert "default-src 'none'" in text
    assert "<script" not in text
