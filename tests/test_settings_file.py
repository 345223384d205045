"""Settings from a file and from `--set`: who wins, and every mistake in one message."""

import contextlib
import json
import os
import sys
from pathlib import Path

import pytest
import typer
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qgraft import cli
from qgraft.cli import settings as cli_settings
from qgraft.cli.settings import Given, configured, read_settings
from qgraft.config import DistillConfig, NewDefectConfig, QcnnConfig, SurfaceConfig
from qgraft.errors import ConfigError


def call(monkeypatch, capsys, *words):
    monkeypatch.setattr(sys, "argv", ["qgraft", *map(str, words)])
    monkeypatch.setenv("COLUMNS", "200")
    try:
        cli.main()
        code = 0
    except SystemExit as stop:
        code = stop.code or 0
    printed = capsys.readouterr()
    return code, printed.out, printed.err


def walk(command, path=()):
    """Yield every command that runs a study, with its words."""
    for name, inner in getattr(command, "commands", {}).items():
        yield from walk(inner, (*path, name))
    if {"resume", "seed"} <= {parameter.name for parameter in getattr(command, "params", ())}:
        yield path, command


CONFIGURED = dict(walk(typer.main.get_command(cli.app)))


def test_every_study_can_be_configured():
    names = {" ".join(path) for path in CONFIGURED}
    assert names >= {"demo", "fit", "distill"}
    studies = ("surface", "new-defect", "qcnn", "distill", "spirals", "ants-bees", "cifar")
    assert names >= {f"reproduce {study}" for study in (*studies, "photonic-qc", "photonic-qq")}
    for path in Path(cli.__file__).parent.glob("*.py"):
        if path.name != "settings.py":
            assert " resolve(" not in path.read_text(), f"{path.name} goes past configured"


@pytest.mark.parametrize("path", CONFIGURED, ids=" ".join)
def test_every_study_refuses_unknown_settings(monkeypatch, capsys, tmp_path, path):
    command = CONFIGURED[path]
    options = {option for parameter in command.params for option in parameter.opts}
    assert options >= {"--config", "--set", "--track"}
    names = {parameter.name: parameter for parameter in command.params}
    words = ["--out", tmp_path / "run"]
    for name in ("teacher", "student"):
        words += [f"--{name}", "v1"] if name in names else []
    if "quick" in names and "data" in names and not names["data"].required:
        words += ["--quick"]
    elif "data" in names:
        words += ["--data", "x"] if "--data" in names["data"].opts else ["x"]
    file = tmp_path / "a.toml"
    file.write_text("nonsense = 1\n")
    code, _, err = call(
        monkeypatch, capsys, *path, *words, "--config", file, "--set", "seeed=3", "--set", "bad"
    )
    assert code == 2, err
    assert "unknown setting 'nonsense'" in err
    assert "unknown setting 'seeed'; did you mean 'seed'?" in err
    assert "--set 'bad': give name=value" in err
    assert len(err.splitlines()) == 1
    assert not (tmp_path / "run").exists()


@pytest.fixture
def resolved(monkeypatch):
    """Make every study give back its settings instead of running."""
    found = []

    def keep(out, config, *_, **__):
        found.append(config)

    for module in ("surface", "fit", "new_defect", "qcnn", "distill", "transfer"):
        monkeypatch.setattr(f"qgraft.cli.{module}.run_study", keep)
    monkeypatch.setattr("qgraft.studies.surface.read_photographs", lambda config: None)
    monkeypatch.setattr("qgraft.studies.fit.read_images", lambda config: None)
    return found


def test_defaults_then_file_then_options_then_set(monkeypatch, capsys, tmp_path, resolved):
    file = tmp_path / "s.toml"
    file.write_text(
        'data = "steel"\nepochs = 7\nfolds = 7\nhead_seeds = 7\nmixed_precision = true\n'
        'batch_size = 7\nmodels = ["cm1"]\nlearning_rate = 1\nseed = 7\n'
    )
    words = ("reproduce", "surface", "--config", file, "--folds", 8, "--seeds", 8, "--seed", 8)
    code, _, err = call(monkeypatch, capsys, *words, "--set", "seed=9", "--set", "depth=9")
    assert code == 0, err
    config = resolved[0]
    assert (config.inits, config.protocol) == (5, "paper")  # of the command
    assert (config.data, config.epochs, config.batch_size) == ("steel", 7, 7)  # of the file
    assert (config.mixed_precision, config.models) == (True, ("cm1",))
    assert (config.folds, config.head_seeds) == (8, 8)  # typed
    assert (config.seed, config.depth) == (9, 9)  # --set
    assert config.learning_rate == 1.0


def test_a_typed_option_wins_even_where_it_is_the_default(monkeypatch, capsys, tmp_path, resolved):
    file = tmp_path / "s.toml"
    file.write_text("head_seeds = 7\ncontrols = false\nseed = 3\n")
    words = ("demo", "--config", file, "--seeds", 1, "--controls", "--out", tmp_path / "run")
    call(monkeypatch, capsys, *words)
    assert (resolved[0].head_seeds, resolved[0].controls, resolved[0].seed) == (1, True, 3)


def test_options_by_other_names_win_over_the_file(monkeypatch, capsys, tmp_path, resolved):
    file = tmp_path / "s.toml"
    file.write_text('teachers = ["alexnet"]\nstudents = ["v1"]\ndata = "steel"\ntrunks = "x"\n')
    monkeypatch.setattr("qgraft.studies.distill.check_settings", lambda config: None)
    monkeypatch.setattr("qgraft.studies.distill_tasks.own_task", lambda *_, **__: None)
    words = ("distill", "--config", file, "--teacher", "lenet", "--teacher-weights", "y")
    code, _, err = call(monkeypatch, capsys, *words)
    assert code == 0, err
    config = resolved[0]
    assert (config.teachers, config.students) == (("lenet",), ("v1",))
    assert (config.data, config.datasets, config.trunks) == ("steel", ("steel",), "y")


def test_the_recipe_follows_the_protocol_of_the_file(monkeypatch, capsys, tmp_path, resolved):
    file = tmp_path / "s.toml"
    file.write_text('data = "digits"\nprotocol = "paper"\nepochs = 3\n')
    monkeypatch.setattr("qgraft.studies.distill_tasks.digit_tasks", lambda *_, **__: None)
    code, _, err = call(monkeypatch, capsys, "reproduce", "distill", "--config", file)
    assert code == 0, err
    config = resolved[0]
    assert (config.protocol, config.form, config.batch_size) == ("paper", "published", 1)
    assert (config.data, config.epochs) == ("digits", 3)


def test_what_is_read_follows_the_settings(monkeypatch, capsys, tmp_path, resolved):
    read = []
    monkeypatch.setattr("qgraft.trunks.registry.require_weights", lambda *_: None)
    monkeypatch.setattr(
        "qgraft.studies.image_pairs.ants_and_bees", lambda data, side: read.append((data, side))
    )
    words = ("reproduce", "ants-bees", "--data", "typed", "--set", "data=set", "--set", "side=64")
    code, _, err = call(monkeypatch, capsys, *words)
    assert code == 0, err
    assert read == [(Path("set"), 64)]


def test_the_settings_of_an_earlier_run_repeat_it(monkeypatch, capsys, tmp_path, resolved):
    words = ("demo", "--seed", 5, "--set", "depth=2", "--out", tmp_path / "run")
    call(monkeypatch, capsys, *words)
    stored = {**resolved[0].model_dump(mode="json"), "command": "qgraft demo"}
    file = tmp_path / "config.json"
    file.write_text(json.dumps(stored))
    code, _, err = call(monkeypatch, capsys, "demo", "--config", file, "--out", tmp_path / "again")
    assert code == 0, err
    assert resolved[1] == resolved[0]
    code, _, err = call(monkeypatch, capsys, "fit", "x", "--config", file)
    assert code == 2
    assert "study = 'surface': input should be 'fit'" in err


def test_what_a_command_decides_cannot_be_set(monkeypatch, capsys, tmp_path):
    code, _, err = call(
        monkeypatch, capsys, "demo", "--set", "data=steel", "--set", "folds=1", "--out", tmp_path
    )
    assert code == 2
    assert "data is 'embedded synthetic steel' in this command; leave it out" in err
    assert "folds = 1" in err
    code, _, err = call(
        monkeypatch, capsys, "reproduce", "cifar", "--data", "x", "--set", "study=ants-bees"
    )
    assert code == 2
    assert "study is 'cifar' in this command" in err


def given_set(monkeypatch, **chosen):
    given = Given(chosen=chosen)
    monkeypatch.setattr(cli_settings, "_given", type("Var", (), {"get": lambda _: given})())


@pytest.mark.parametrize(
    ("kind", "name", "text", "value"),
    [
        (SurfaceConfig, "epochs", "30", 30),
        (SurfaceConfig, "epochs", " 30 # many", 30),
        (SurfaceConfig, "controls", "false", False),
        (SurfaceConfig, "learning_rate", "1", 1.0),
        (SurfaceConfig, "learning_rate", "5e-4", 5e-4),
        (SurfaceConfig, "task", "types", "types"),
        (SurfaceConfig, "task", '"types"', "types"),
        (SurfaceConfig, "data", "a folder/x=1", "a folder/x=1"),
        (SurfaceConfig, "weights", "", None),
        (SurfaceConfig, "models", "cm2", ("cm2",)),
        (SurfaceConfig, "models", "cm2, cm3", ("cm2", "cm3")),
        (SurfaceConfig, "models", '["cm2", "cm3"]', ("cm2", "cm3")),
        (SurfaceConfig, "classes", "scratches", ("scratches",)),
        (SurfaceConfig, "classes", "", None),
        (NewDefectConfig, "shots", "5", (5,)),
        (NewDefectConfig, "shots", "5,10", (5, 10)),
        (NewDefectConfig, "replace_last", "2", 2),
        (NewDefectConfig, "replace_last", "all", "all"),
        (QcnnConfig, "pairs", "[[0, 1], [2, 3]]", ((0, 1), (2, 3))),
        (DistillConfig, "shots", "published", "published"),
    ],
)
def test_values_are_read_as_toml_or_as_words(monkeypatch, kind, name, text, value):
    given_set(monkeypatch, **{name: text})
    base = {"data": "x", "ansatz": ("ttn",), "pooling": ("zx",)}
    known = {key: item for key, item in base.items() if key in kind.model_fields}
    assert getattr(configured(kind, known), name) == value


def test_all_mistakes_are_told_at_once(monkeypatch, capsys, tmp_path):
    file = tmp_path / "s.toml"
    file.write_text('epoch = 3\nfolds = 1\nseed = true\nn_qubits = "5"\nmodels = ["cm2", "cm2"]\n')
    words = ("--set", "depth=0", "--set", "inits=2", "--set", "inits=3", "--set", "tune_epochs=x")
    code, _, err = call(
        monkeypatch, capsys, "reproduce", "surface", "--data", "x", "--config", file, *words
    )
    assert code == 2
    for told in (
        "unknown setting 'epoch'; did you mean 'epochs'?",
        "folds = 1: input should be greater than or equal to 2",
        "seed = True: input should be a valid integer",
        "n_qubits = '5': input should be a valid integer",
        "models = ('cm2', 'cm2'): value error, name each network once",
        "depth = 0: input should be greater",
        "--set inits is given more than once",
        "tune_epochs = 'x': input should be a valid integer",
    ):
        assert told in err
    assert len(err.splitlines()) == 1


def test_a_wrong_member_does_not_make_a_list_empty(monkeypatch):
    given_set(monkeypatch, models="cm9")
    with pytest.raises(ConfigError, match=r"models\.0 = 'cm9'") as caught:
        configured(SurfaceConfig, {"data": "x"})
    assert "at least 1 item" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.toml", b"epochs = 3\nfolds = = 2\n", r"a.toml is not valid TOML: .*line 2"),
        ("a.toml", b"epochs = 3\n\nepochs = 4\n", r"not valid TOML: .*line 3"),
        ("a.toml", b"\xff", r"a.toml is not UTF-8 text \(line 1\)"),
        ("a.toml", b"a = 1\nb = '\xff'", r"a.toml is not UTF-8 text \(line 2\)"),
        ("a.toml", b"a = " + b"[" * 100_000, "not valid TOML"),
        ("a.toml", b"a = " + b"9" * 5000, "not valid TOML"),
        ("a.toml", b"#" * 1_000_001, r"1,000,001 bytes, more than 1,000,000"),
        ("a.json", b'{"epochs": 3,\n "folds": }', r"a.json is not valid JSON: .*line 2"),
        ("a.json", b'{"epochs": 3, "epochs": 4}', "epochs more than once"),
        ("a.json", b"[" * 100_000, "not valid JSON"),
        ("a.json", b"[1]", "holds no settings"),
    ],
    ids=["broken", "twice", "bytes", "bytes2", "deep", "digits", "large", "json", "json2", "json3",
         "list"],
)  # fmt: skip
def test_a_broken_file_is_one_clear_error(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ConfigError, match=message):
        read_settings(tmp_path / name)


def test_what_is_no_file_is_refused(tmp_path, monkeypatch, capsys):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ConfigError, match="not a file"):
        read_settings(tmp_path / "pipe")
    with pytest.raises(ConfigError, match="not a file"):
        read_settings(tmp_path)
    code, _, err = call(monkeypatch, capsys, "demo", "--config", tmp_path / "nowhere.toml")
    assert code == 2
    assert "nowhere.toml cannot be read: No such file or directory" in err


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.just(10**400),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
NAMES = st.sampled_from([*SurfaceConfig.model_fields]) | st.text()


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.dictionaries(NAMES, VALUES, max_size=6), st.dictionaries(NAMES, st.text(), max_size=3))
def test_any_settings_are_valid_or_one_error(monkeypatch, file, chosen):
    given = Given(file={k: cli_settings._tuples(v) for k, v in file.items()}, chosen=chosen)
    monkeypatch.setattr(cli_settings, "_given", type("Var", (), {"get": lambda _: given})())
    with contextlib.suppress(ConfigError):  # any other exception is a failure
        config = configured(SurfaceConfig, {"data": "x"})
        assert SurfaceConfig.model_validate(config.model_dump()) == config


@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.binary(max_size=200), st.sampled_from(["toml", "json"]))
def test_any_bytes_are_settings_or_one_error(tmp_path, content, ending):
    path = tmp_path / f"s.{ending}"
    path.write_bytes(content)
    with contextlib.suppress(ConfigError):
        assert isinstance(read_settings(path), dict)
