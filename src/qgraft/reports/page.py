"""What the pages of the smaller studies share: a checked result, one style, embedded figures."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from qgraft.errors import RunError
from qgraft.training.checkpoint import read_json

Content = TypeVar("Content")


def checked_result(run: Path, shape: type[Content]) -> Content:
    """Return the content of `result.json`, checked against a typed dictionary.

    Raises:
        RunError: it is missing, of another study, or damaged.
    """
    path = run / "result.json"
    try:
        return TypeAdapter(shape).validate_python(read_json(path))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "the whole file"
        raise RunError(
            f"{path}: {place}: {first['msg']}; it is damaged or of another study: run again"
        ) from None


def render_page(template: str, run: Path, **values: Any) -> str:
    """Return a page of `template`, in the style of `report.html.j2`.

    Values of the template are `command` and `seed`, from the settings of the run, and those given;
    a page without `audit` has no such section.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    folder = resources.files("qgraft.reports")
    style = re.search(
        r"<style>.*?</style>", folder.joinpath("report.html.j2").read_text("utf-8"), re.DOTALL
    )
    text = folder.joinpath(template).read_text("utf-8")
    environment = Environment(
        loader=PackageLoader("qgraft", "reports"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    config = read_settings(run)
    page = environment.from_string(text.replace("<style></style>", style[0] if style else ""))
    known = {"command": config.get("command", ""), "seed": config.get("seed"), "audit": None}
    return page.render(**{**known, **values})


def read_settings(run: Path) -> Mapping[str, Any]:
    """Return the settings of a run; a folder may have none."""
    path = run / "config.json"
    return read_json(path) if path.exists() else {}


def embedded(svg: str) -> str:
    """Return a figure as the source of an image."""
    return f"data:image/svg+xml;base64,{base64.b64encode(svg.encode()).decode()}"
