"""What README and docs show works: code runs, commands exist, links lead somewhere."""

import re
import shlex
from pathlib import Path

import pytest
import torch
from typer.main import get_command

from qgraft.cli import app
from qgraft.seeds import torch_stream

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
ELSEWHERE = {"scaling.md"}  # pages whose code needs a cluster: it is only compiled
EVERYWHERE = [*PAGES, *sorted((ROOT / "results").glob("*/README.md"))]


def named(page):
    return str(page.relative_to(ROOT))


def blocks(page, language):
    """Return the fenced blocks of a page in a language; "" are those without one."""
    fences = re.findall(r"^```(\w*)\n(.*?)^```", page.read_text("utf-8"), re.DOTALL | re.MULTILINE)
    return [code for found, code in fences if found == language]


@pytest.mark.parametrize("page", [p for p in PAGES if blocks(p, "python")], ids=named)
def test_code_runs(page):
    """Blocks of a page run one after another, each with the names of those before."""
    names = {}
    with torch_stream(0, "documents"):
        for number, code in enumerate(blocks(page, "python")):
            compiled = compile(code, f"{page.name}[{number}]", "exec")
            if page.name not in ELSEWHERE:
                exec(compiled, names)
    assert torch.is_grad_enabled()


def commands(page):
    lines = "".join(blocks(page, "")).replace("\\\n", " ").splitlines()
    return [shlex.split(line, comments=True) for line in lines if line.startswith("qgraft ")]


@pytest.mark.parametrize("page", [p for p in EVERYWHERE if commands(p)], ids=named)
def test_commands_and_their_options_exist(page):
    for _, *words in commands(page):
        command, said = get_command(app), []
        while words and hasattr(command, "commands"):
            said.append(words.pop(0))
            assert said[-1] in command.commands, f"{named(page)}: qgraft {' '.join(said)}"
            command = command.commands[said[-1]]
        known = {opt for p in command.params for opt in (*p.opts, *p.secondary_opts)}
        unknown = {word for word in words if word.startswith("--")} - known
        assert not unknown, f"{named(page)}: qgraft {' '.join(said)} has no {unknown}"


@pytest.mark.parametrize("page", EVERYWHERE, ids=named)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#\s]+)", page.read_text("utf-8")):
        if not re.match(r"[a-z]+:", target):
            assert (page.parent / target).exists(), f"{named(page)}: {target}"
