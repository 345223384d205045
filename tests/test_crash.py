"""Runs that are killed at any write end with the same bits.

What a killed process leaves is what lies on the disk at that moment. So a run is made once, its
folder is copied at every point inside every write, and each copy is resumed. A few real kills
show that the copies are what a kill leaves.
"""

import hashlib
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from crash_runs import (
    NIGHTLY,
    PROTOCOLS,
    Camera,
    WatchedOs,
    be_quick_and_eager,
    outcome,
    rest_easy,
    whole_study,
)
from qgraft.studies import lock
from qgraft.studies.run import SUMS_FILE, remove_run
from qgraft.training import checkpoint


@pytest.fixture(autouse=True)
def quick_and_eager(monkeypatch):
    be_quick_and_eager(monkeypatch.setattr)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_kill_at_any_write_changes_no_bit(protocol, tmp_path, monkeypatch):
    body, folder = PROTOCOLS[protocol], tmp_path / "run"
    camera = Camera(folder, tmp_path / "album")
    with monkeypatch.context() as watched:
        watched.setattr(checkpoint, "os", WatchedOs(camera))
        body(folder)
    expected = outcome(folder)
    assert camera.points >= (384 if protocol == "whole study" else 128)
    assert any(list(state.rglob(".*.part")) for state in camera.states)
    rest_easy(monkeypatch)
    every = 1 if NIGHTLY or protocol != "whole study" else 5
    for state in camera.states[::every]:
        body(state)
        assert outcome(state) == expected | outcome_of_strays(state, protocol)


def outcome_of_strays(state, protocol):
    """Return half-written files; only opening a run sweeps them."""
    in_run = protocol in ("native heads", "whole study")
    strays = [] if in_run else state.rglob(".*.part")
    return {str(path.relative_to(state)): path.read_bytes() for path in strays}


KILLER = """
import os, signal, sys
from pathlib import Path

sys.path.insert(0, sys.argv[1])
import crash_runs as crash
from qgraft.training import checkpoint

crash.be_quick_and_eager(setattr)
body = crash.PROTOCOLS[sys.argv[2]]
for place in map(int, sys.argv[4:]):
    child = os.fork()
    if not child:
        left = place

        def point():
            global left
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

        checkpoint.os = crash.WatchedOs(point)
        body(Path(sys.argv[3]) / str(place))
        os._exit(1)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL
"""


@pytest.mark.parametrize("protocol", ["network", "native heads"])
def test_a_real_kill_leaves_no_more_than_that(protocol, tmp_path, monkeypatch):
    places = random.Random(3).sample(range(1, 120), 100 if NIGHTLY else 3)
    words = [Path(__file__).parent, protocol, tmp_path, *places]
    subprocess.run([sys.executable, "-c", KILLER, *map(str, words)], check=True, timeout=600)
    body = PROTOCOLS[protocol]
    rest_easy(monkeypatch)
    body(tmp_path / "whole")
    expected = outcome(tmp_path / "whole")
    for place in places:
        body(tmp_path / str(place))
        state = tmp_path / str(place)
        assert outcome(state) == expected | outcome_of_strays(state, protocol)


def test_the_same_settings_give_the_same_bits(tmp_path, monkeypatch):
    rest_easy(monkeypatch)
    cache = os.environ["QGRAFT_CACHE"]
    whole_study(tmp_path / "first")
    expected = outcome(tmp_path / "first")
    assert list(Path(cache).rglob("*.safetensors"))
    for number in range(20 if NIGHTLY else 3):
        monkeypatch.setenv("QGRAFT_CACHE", cache if number % 2 else f"{cache}/cold-{number}")
        torch.set_num_threads(1 + number % 3 % 2)
        try:
            whole_study(tmp_path / str(number))
        finally:
            torch.set_num_threads(1)
        assert outcome(tmp_path / str(number)) == expected


def test_a_finished_run_carries_its_checksums_and_nothing_else(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / ".config.json.4711.part").write_text('{"half')
    whole_study(folder)
    sums = dict(line.split("  ")[::-1] for line in (folder / SUMS_FILE).read_text().splitlines())
    for name, expected in sums.items():
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == expected
    assert {"result.json", "data.json", "curves.json", "models.json"} < set(sums)
    assert "trunks/cm2/init-0.safetensors" in sums
    assert not [path for path in folder.rglob(".*") if path.name != lock.LOCK_FILE]
    (folder / ".result.json.12.part").write_text("{")  # a killed run may be removed as well
    remove_run(folder)
    assert not folder.exists()
