"""Runs found again: what a list shows, and an index that is never believed over the runs."""

import fcntl
import json
import os
import re
import sqlite3
import subprocess
import sys

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qgraft import cli
from qgraft.errors import RunError
from qgraft.studies import run_index
from qgraft.studies.lock import is_locked, lock_folder, unlock_folder
from qgraft.studies.run_index import INDEX_FILE, list_runs


def make_run(folder, *, study="surface", score=0.9, finished=True, **settings):
    folder.mkdir(parents=True)
    config = {"study": study, "protocol": "clean", "command": f"qgraft {study}", **settings}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "timings.json").write_text('{"a": 1.5, "b": 60}')
    if finished:
        rows = [{"f1_mean": score - 0.1}, {"f1_mean": score}, {"f1_mean": None}]
        (folder / "result.json").write_text(json.dumps({"study": study, "rows": rows}))
    return folder


@pytest.fixture
def runs(tmp_path):
    """A folder with three runs, one of them further down, and things that are no runs."""
    folder = tmp_path / "runs"
    make_run(folder / "a")
    make_run(folder / "deep" / "b", study="fit", score=0.8)
    make_run(folder / "c", finished=False)
    make_run(folder / "a" / "trunks" / "inside")  # nothing inside a run is a run
    make_run(folder / ".hidden" / "d")
    (folder / "note.txt").write_text("x")
    return folder


def facts(listing):
    return {facts.folder: facts for facts, _ in listing.runs}


def call(monkeypatch, capsys, *words):
    monkeypatch.setattr(sys, "argv", ["qgraft", *map(str, words)])
    try:
        cli.main()
        code = 0
    except SystemExit as stop:
        code = stop.code or 0
    printed = capsys.readouterr()
    return code, printed.out, printed.err


def test_a_list_shows_what_the_runs_say(runs):
    listing = list_runs(runs)
    states = {facts.folder: state for facts, state in listing.runs}
    assert states == {"a": "finished", "deep/b": "finished", "c": "stopped"}
    found = facts(listing)["a"]
    assert (found.study, found.protocol, found.command) == ("surface", "clean", "qgraft surface")
    assert (found.score_name, found.score, found.seconds) == ("f1", 0.9, 61.5)
    assert listing.notes == []
    assert facts(list_runs(runs, study="fit")).keys() == {"deep/b"}


def test_the_newest_run_comes_first(runs):
    os.utime(runs / "c" / "config.json", (2e9, 2e9))
    os.utime(runs / "a" / "config.json", (1e9, 1e9))
    assert [facts.folder for facts, _ in list_runs(runs).runs] == ["c", "deep/b", "a"]


def test_a_run_at_work_is_in_use_and_looking_does_not_disturb_it(runs):
    assert not is_locked(runs / "a")
    assert not (runs / "a" / ".lock").exists()
    lock_folder(runs / "a")
    try:
        assert dict((f.folder, s) for f, s in list_runs(runs).runs)["a"] == "in use"
    finally:
        unlock_folder(runs / "a")
    (runs / "c" / ".lock").write_text('{"pid": 1}')  # left behind by a process that was killed
    assert dict((f.folder, s) for f, s in list_runs(runs).runs)["c"] == "stopped"
    with (runs / "c" / ".lock").open("r+") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)  # nobody holds it
        assert is_locked(runs / "c")


def count_reads(monkeypatch):
    read = []
    original = run_index.read_facts

    def counted(folder, place):
        read.append(place)
        return original(folder, place)

    monkeypatch.setattr(run_index, "read_facts", counted)
    return read


def test_only_what_changed_is_read_again(runs, monkeypatch):
    first = facts(list_runs(runs))
    read = count_reads(monkeypatch)
    assert facts(list_runs(runs)) == first
    assert read == []
    result = runs / "a" / "result.json"
    times = result.stat()
    changed = result.read_text().replace("0.9}", "0.7}")  # as long as before
    result.write_text(changed)
    os.utime(result, ns=(times.st_atime_ns, times.st_mtime_ns))  # and as old
    assert facts(list_runs(runs))["a"].score == 0.8
    assert read == ["a"]
    make_run(runs / "new", study="qcnn")
    (runs / "c" / "config.json").unlink()
    assert facts(list_runs(runs)).keys() == {"a", "deep/b", "new"}
    assert read == ["a", "new"]
    list_runs(runs, rebuild=True)
    assert sorted(read[2:]) == ["a", "deep/b", "new"]


def other_schema(path):
    with sqlite3.connect(path) as base:
        base.execute("CREATE TABLE runs (folder, mood)")
    base.close()


def other_program(path):
    content = path.read_bytes()
    path.write_bytes(content[:68] + b"\0\0\0\1" + content[72:])  # the application id


def lying(path):
    with sqlite3.connect(path) as base:
        base.execute("UPDATE runs SET facts = replace(facts, '0.9', '1.0')")
    base.close()


def swapped_for_a_pipe(path):
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize(
    "harm",
    [
        lambda path: path.unlink(),
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(b"no database" * 1000),
        lambda path: path.write_bytes(path.read_bytes()[:5000]),
        lambda path: path.unlink() or other_schema(path),
        other_program,
        lying,
        swapped_for_a_pipe,
    ],
    ids=["lost", "empty", "noise", "cut", "schema", "program", "lying", "pipe"],
)
def test_a_bad_index_is_written_anew(runs, monkeypatch, harm):
    before = facts(list_runs(runs))
    harm(runs / INDEX_FILE)
    assert facts(list_runs(runs)) == before
    read = count_reads(monkeypatch)
    assert facts(list_runs(runs)) == before
    assert read == []


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.data())
def test_no_change_of_the_index_changes_the_list(runs, data):
    index = runs / INDEX_FILE
    expected = facts(list_runs(runs))
    content = bytearray(index.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    index.write_bytes(bytes(content))
    assert facts(list_runs(runs)) == expected


def test_an_index_that_is_a_link_is_replaced_and_its_target_kept(runs, tmp_path):
    target = tmp_path / "precious"
    target.write_bytes(b"mine")
    (runs / INDEX_FILE).symlink_to(target)
    assert len(list_runs(runs).runs) == 3
    assert target.read_bytes() == b"mine"


def test_without_a_place_for_an_index_the_runs_are_listed_all_the_same(runs):
    (runs / INDEX_FILE).mkdir()
    listing = list_runs(runs)
    assert len(listing.runs) == 3
    assert "runs are read anew each time" in listing.notes[0]


def test_no_index_is_left_in_a_run_or_where_there_is_none(runs, tmp_path):
    assert facts(list_runs(runs / "a")).keys() == {"."}
    assert not (runs / "a" / INDEX_FILE).exists()
    (tmp_path / "empty").mkdir()
    assert list_runs(tmp_path / "empty").runs == []
    assert not (tmp_path / "empty" / INDEX_FILE).exists()


def too_large(path):
    with path.open("wb") as file:
        file.truncate(run_index.MAX_BYTES + 1)


@pytest.mark.parametrize("name", ["config.json", "result.json", "timings.json"])
@pytest.mark.parametrize(
    ("harm", "note"),
    [
        (too_large, "more than 32,000,000"),
        (lambda path: path.write_text("[" * 100_000), "nested too deeply|damaged"),
        (lambda path: path.write_text('{"study": '), "is damaged"),
        (lambda path: path.write_bytes(b"\xff\xfe\x00{"), "is damaged"),
        (lambda path: path.write_text("[1, 2]"), "no JSON object"),
        (lambda path: path.write_text('{"a": ' + "9" * 5000 + "}"), "is damaged"),
        (lambda path: os.mkfifo(path), "not a file"),
        (lambda path: path.mkdir(), "not a file"),
        (lambda path: path.symlink_to("/etc/hostname"), "is a link"),
    ],
    ids=["large", "deep", "cut", "bytes", "list", "digits", "pipe", "folder", "link"],
)
def test_hostile_files_give_a_note(runs, name, harm, note):
    (runs / "a" / name).unlink()
    harm(runs / "a" / name)
    listing = list_runs(runs)
    assert facts(listing).keys() == {"a", "deep/b", "c"}
    assert len(listing.notes) == 1
    assert re.search(f"a: {name}.*({note})", listing.notes[0])


def test_strange_values_are_left_out(runs):
    (runs / "a" / "config.json").write_text('{"study": 5, "command": ["x"], "protocol": null}')
    rows = '[{"f1_mean": NaN}, {"f1_mean": 1e999}, {"f1_mean": true}, 7, {"f1_mean": "0.5"}]'
    (runs / "a" / "result.json").write_text(f'{{"rows": {rows}}}')
    (runs / "a" / "timings.json").write_text('{"x": {}, "y": "z", "z": -Infinity, "ok": 2}')
    found = facts(list_runs(runs))["a"]
    assert (found.study, found.command, found.protocol) == ("unknown", "", "")
    assert (found.score, found.seconds) == (None, 2.0)
    assert "names no study" in found.note


def test_links_are_not_followed(runs, tmp_path):
    outside = make_run(tmp_path / "outside" / "run").parent
    (runs / "away").symlink_to(outside)
    (runs / "loop").symlink_to(runs)
    listing = list_runs(runs)
    assert facts(listing).keys() == {"a", "deep/b", "c"}
    assert sorted(note.split(" is a link")[0][-4:] for note in listing.notes) == ["away", "loop"]


def test_names_that_are_no_text_are_listed(runs):
    make_run(runs / os.fsdecode(b"bad\xff"))
    listing = list_runs(runs)
    assert len(listing.runs) == 4
    assert len(list_runs(runs).runs) == 4


def test_several_processes_at_once_agree(runs):
    for number in range(20):
        make_run(runs / f"more-{number}", score=number / 20)
    program = (
        "import sys\nfrom pathlib import Path\n"
        "from qgraft.studies.run_index import list_runs\n"
        "for i in range(25):\n"
        "    found = list_runs(Path(sys.argv[1]), rebuild=i % 2 == 0)\n"
        "    assert len(found.runs) == 23 and not found.notes, found.notes\n"
    )
    at_work = [
        subprocess.Popen([sys.executable, "-c", program, str(runs)], stderr=subprocess.PIPE)
        for _ in range(3)
    ]
    for process in at_work:
        _, error = process.communicate(timeout=120)
        assert process.returncode == 0, error.decode()
    with sqlite3.connect(runs / INDEX_FILE) as base:
        assert base.execute("SELECT count(*) FROM runs").fetchone() == (23,)
        assert base.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    base.close()
    assert [path.name for path in runs.glob(".*.part")] == []


def test_the_command_prints_a_line_and_the_command_of_each_run(runs, monkeypatch, capsys):
    make_run(runs / "x", study="\x1b[31mred", command="qgraft \x07bell")
    code, out, err = call(monkeypatch, capsys, "runs", runs)
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0].split() == ["run", "study", "protocol", "started", "state", "best", "score",
                                "took"]  # fmt: skip
    line = next(line for line in lines if line.startswith("a "))
    assert "finished" in line
    assert "F1 90.0 %" in line
    assert "1 min 02 s" in line
    assert "\x1b[31mred" not in out
    assert "\x07" not in out


def test_the_command_writes_json(runs, monkeypatch, capsys):
    code, out, _ = call(monkeypatch, capsys, "runs", runs, "--study", "fit", "--json", "-")
    found = json.loads(out)
    assert code == 0
    assert [(run["folder"], run["state"], run["score"]) for run in found["runs"]] == [
        ("deep/b", "finished", 0.8)
    ]


def test_nothing_found_and_no_folder_are_said_plainly(runs, monkeypatch, capsys, tmp_path):
    code, out, _ = call(monkeypatch, capsys, "runs", runs, "--study", "qcnn")
    assert (code, "holds no runs of the study qcnn" in out) == (0, True)
    with pytest.raises(RunError, match="is not a folder"):
        list_runs(tmp_path / "nowhere")
    code, _, err = call(monkeypatch, capsys, "runs", tmp_path / "nowhere")
    assert code == 2
    assert err.startswith("error: ")
