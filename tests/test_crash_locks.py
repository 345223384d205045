"""Two processes, two runs: who works in a folder keeps others out of it."""

import errno
import fcntl
import os
import shutil
import subprocess
import sys

import pytest

from crash_runs import be_quick_and_eager, native_heads, opened
from qgraft.errors import RunError
from qgraft.studies import lock
from qgraft.studies.run import keep_data, open_run
from qgraft.training.checkpoint import write_json


@pytest.fixture(autouse=True)
def quick_and_eager(monkeypatch):
    be_quick_and_eager(monkeypatch.setattr)


HOLDER = """
import sys, time
from pathlib import Path
from qgraft.studies.lock import lock_folder

lock_folder(Path(sys.argv[1]))
print("locked", flush=True)
time.sleep(60)
"""


def test_the_lock_of_a_killed_process_is_taken_over(tmp_path):
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "locked\n"
        with pytest.raises(RunError, match=rf"^{tmp_path} is in use by process {process.pid} on "):
            lock.lock_folder(tmp_path)
        process.kill()
    lock.lock_folder(tmp_path)
    assert str(os.getpid()) in (tmp_path / lock.LOCK_FILE).read_text()
    lock.lock_folder(tmp_path)  # one process may open its own run again
    lock.unlock_folder(tmp_path)
    lock.unlock_folder(tmp_path)
    assert (tmp_path / lock.LOCK_FILE).read_text() == ""


def test_a_lock_that_says_nothing_is_still_a_lock(tmp_path):
    with (tmp_path / lock.LOCK_FILE).open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)  # another open file counts as another process
        with pytest.raises(RunError, match="is in use by another process; wait for it"):
            lock.lock_folder(tmp_path)


def test_a_folder_made_again_is_locked_again(tmp_path):
    folder = tmp_path / "run"
    for _ in range(2):
        folder.mkdir()
        lock.lock_folder(folder)
        shutil.rmtree(folder)
    assert lock._held[folder.resolve()]
    lock.unlock_folder(folder)


def test_a_file_system_without_locks_is_used_unlocked(tmp_path, monkeypatch):
    def unsupported(*arguments):
        raise OSError(errno.ENOTSUP, "not supported")

    monkeypatch.setattr(fcntl, "flock", unsupported)
    lock.lock_folder(tmp_path)
    assert tmp_path.resolve() not in lock._held


def test_a_refused_start_leaves_the_run_unlocked(tmp_path):
    opened(tmp_path / "run")
    lock.unlock_folder(tmp_path / "run")
    with pytest.raises(RunError, match="go on with it by --resume"):
        open_run(tmp_path / "run", {}, resume=False)
    assert (tmp_path / "run").resolve() not in lock._held


@pytest.mark.parametrize("name", ["data.json", "config.json", "timings.json"])
def test_files_that_are_no_objects_are_refused(name, tmp_path):
    native_heads(tmp_path)
    write_json(tmp_path / name, [1])
    with pytest.raises(RunError, match="was not written by a run"):
        keep_data(opened(tmp_path).folder, {"digest": "", "splits": {}})
    lock.unlock_folder(tmp_path)
