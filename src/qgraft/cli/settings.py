"""Settings from files and from `--set`, for every command that runs a study.

A later source wins: the command's defaults, the file of `--config`, options typed, `--set`.
"""

from __future__ import annotations

import functools
import inspect
import json
import tomllib
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_origin

import typer

from qgraft.cli.options import DaskOption, JobsOption
from qgraft.errors import ConfigError

if TYPE_CHECKING:
    from qgraft.config import Config

MAX_BYTES = 1_000_000
# Options whose setting goes by another name, where the study has no setting of the option's name.
SETTING_OF = {
    "seeds": "head_seeds", "bf16": "mixed_precision", "all_combinations": "published_only",
    "teacher": "teachers", "student": "students", "teacher_weights": "trunks",
}  # fmt: skip
# What commands look at before there are settings.
LOOKED_AT = ("data", "protocol")
PROTOCOLS = ("clean", "paper")


@dataclass
class Given:
    """What a command was given beside its own options.

    Attributes:
        file: settings of the file.
        chosen: settings of `--set`, raw text.
        faults: what is wrong with `--set` itself.
        typed: names of the options that were typed.
        track: where the run is followed.
        jobs: trainings at the same time.
        dask: the scheduler of a cluster that trains.
    """

    file: dict[str, Any] = field(default_factory=dict)
    chosen: dict[str, str] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)
    typed: frozenset[str] = frozenset()
    track: str | None = None
    jobs: int | None = None
    dask: str | None = None


_given: ContextVar[Given | None] = ContextVar("given", default=None)


def followed() -> str | None:
    """Return where the run of this command is followed, as typed after `--track`."""
    given = _given.get()
    return given.track if given else None


def workers() -> tuple[int | None, str | None]:
    """Return how many trainings this command has at the same time, and on which cluster."""
    given = _given.get()
    return (given.jobs, given.dask) if given else (None, None)


def configurable(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options of every study: `configured` and `run_study` make use of them."""

    @functools.wraps(command)
    def run(
        *,
        _context: typer.Context,
        track: str | None,
        jobs: int | None,
        dask: str | None,
        **options: Any,
    ) -> None:
        del options["config_file"], options["chosen"]  # their callbacks have read them
        given = _of(_context)
        given.track, given.jobs, given.dask = track, jobs, dask
        given.typed = frozenset(name for name in options if _is_typed(_context, name))
        token = _given.set(given)
        try:
            command(**options)
        finally:
            _given.reset(token)

    own = inspect.signature(command, eval_str=True)
    kind = inspect.Parameter.KEYWORD_ONLY
    added = [
        inspect.Parameter("_context", kind, annotation=typer.Context),
        inspect.Parameter("config_file", kind, default=None, annotation=_CONFIG),
        inspect.Parameter("chosen", kind, default=None, annotation=_SET),
        inspect.Parameter("track", kind, default=None, annotation=_TRACK),
        inspect.Parameter("jobs", kind, default=None, annotation=JobsOption),
        inspect.Parameter("dask", kind, default=None, annotation=DaskOption),
    ]
    keywords = [parameter.replace(kind=kind) for parameter in own.parameters.values()]
    parameters = [*keywords, *added]
    run.__signature__ = own.replace(parameters=parameters)  # pyright: ignore
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return run


def configured(
    kind: type[Config], settings: Mapping[str, Any], *, fixed: tuple[str, ...] = ("study",)
) -> Config:
    """Return the checked settings of a study: those of the command, the file and `--set`.

    Args:
        kind: what settings the study has.
        settings: what the command makes of its options.
        fixed: settings that the command decides and no file can change.

    Raises:
        ConfigError: every mistake, whether in the file, in `--set` or in an option.
    """
    from qgraft.config import resolve

    given = _given.get() or Given()
    if not (given.file or given.chosen or given.faults):
        return resolve(kind, dict(settings))
    fields = kind.model_fields
    typed = {name if name in fields else SETTING_OF.get(name, name) for name in given.typed}
    chosen = {name: _read_value(name, text, kind) for name, text in given.chosen.items()}
    file = {name: value for name, value in given.file.items() if name not in typed}
    values: dict[str, Any] = {**settings, **file, **chosen}
    faults = [*given.faults]
    for name in fixed:
        if name in settings and values[name] != settings[name]:
            faults.append(f"{name} is {settings[name]!r} in this command; leave it out")
            values[name] = settings[name]
    try:
        config = resolve(kind, values, strict=True)
    except ConfigError as error:
        raise ConfigError("; ".join([*faults, str(error)])) from None
    if faults:
        raise ConfigError("; ".join(faults))
    return config


def read_settings(path: Path) -> dict[str, Any]:
    """Return the settings in a TOML file, or in the `config.json` of an earlier run.

    Raises:
        ConfigError: the file is missing, too large, broken or holds no table; where it is broken
            the message names the line.
    """
    text = _read_text(path)
    try:
        if path.suffix.lower() != ".json":
            return _tuples(tomllib.loads(text))
        values = json.loads(text, object_pairs_hook=_without_repeats)
    except (ValueError, RecursionError) as error:
        kind = "JSON" if path.suffix.lower() == ".json" else "TOML"
        reason = "nested too deeply" if isinstance(error, RecursionError) else error
        raise ConfigError(f"{path} is not valid {kind}: {reason}") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{path} holds no settings: give a TOML file, or a run's config.json")
    return {name: _tuples(value) for name, value in values.items() if name != "command"}


def _read_text(path: Path) -> str:
    from qgraft.training.checkpoint import read_regular

    try:
        content = read_regular(path, MAX_BYTES)
        return content.decode()
    except OSError as error:
        raise ConfigError(f"--config {path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{path} is not UTF-8 text (line {line})") from None
    except ValueError as error:
        raise ConfigError(f"--config {path}: {error}; name a small TOML file") from None


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    names = [name for name, _ in pairs]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise ValueError(f"{', '.join(repeated[:5])} more than once")
    return dict(pairs)


def _tuples(value: Any) -> Any:
    """Turn lists into tuples all the way down, as settings hold them."""
    if isinstance(value, dict):
        return {name: _tuples(inner) for name, inner in value.items()}
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def _parsed(text: str) -> Any:
    """Return text as a TOML value, as None where it is empty, else as it stands."""
    if not text.strip():
        return None
    try:
        table = tomllib.loads(f"value = {text}")
    except (ValueError, RecursionError):
        return text.strip()
    return _tuples(table["value"]) if table.keys() == {"value"} else text


def _read_value(name: str, text: str, kind: type[Config]) -> Any:
    """Return what `--set name=text` says; where a list is expected, commas part its members."""
    value = _parsed(text)
    if name not in kind.model_fields or not _takes_list(kind.model_fields[name].annotation):
        return value
    if isinstance(value, str):
        return tuple(_parsed(word) for word in value.split(",") if word.strip())
    return value if isinstance(value, tuple) or value is None else (value,)


def _takes_list(annotation: Any) -> bool:
    return tuple in (get_origin(annotation), *map(get_origin, getattr(annotation, "__args__", ())))


def _of(context: typer.Context) -> Given:
    return context.meta.setdefault("qgraft.settings", Given())


def _is_typed(context: typer.Context, name: str) -> bool:
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def _read_config(context: typer.Context, path: Path | None) -> Path | None:
    if path is not None:
        _of(context).file = read_settings(path)
        _offer(context)
    return path


def _read_set(context: typer.Context, words: list[str] | None) -> list[str] | None:
    given = _of(context)
    for word in words or ():
        name, equals, text = word.partition("=")
        name = name.strip()
        if not equals or not name:
            given.faults.append(f"--set {word!r}: give name=value, as epochs=30")
        elif name in given.chosen:
            given.faults.append(f"--set {name} is given more than once")
        else:
            given.chosen[name] = text
    _offer(context)
    return words


def _offer(context: typer.Context) -> None:
    """Let required options, and those that commands look at first, come from the file too."""
    given = _of(context)
    known = {**given.file, **{name: _parsed(text) for name, text in given.chosen.items()}}
    offered = {}
    for parameter in context.command.params:
        name = parameter.name or ""
        if not (parameter.required or name in LOOKED_AT):
            continue
        value = known.get(name, known.get(SETTING_OF.get(name, "")))
        if isinstance(value, tuple) and len(value) == 1:
            value = value[0]
        usable = isinstance(value, str | int | float) and not isinstance(value, bool)
        if name == "protocol":
            usable = value in PROTOCOLS
        if name == "data" and not parameter.required:
            usable = isinstance(value, str) and not value.startswith("embedded")
        if usable:
            offered[name] = str(value)
    context.default_map = offered


_CONFIG = Annotated[
    Path | None,
    typer.Option(
        "--config", metavar="FILE", is_eager=True, callback=_read_config,
        help="Settings from a TOML file, or from the config.json of an earlier run.",
    ),
]  # fmt: skip
_SET = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="NAME=VALUE", is_eager=True, callback=_read_set,
        help="One setting, over all else; may be repeated.",
    ),
]  # fmt: skip
_TRACK = Annotated[
    str | None,
    typer.Option(
        metavar="KIND:PLACE",
        help="Follow the run live: tensorboard:FOLDER or mlflow:URI, as mlflow:sqlite:///ml.db.",
    ),
]
