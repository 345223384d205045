"""The command line: parse, call, print. Heavy imports wait until a command needs them."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from qgraft.errors import ConfigError, QgraftError

if TYPE_CHECKING:
    from collections.abc import Callable

    from qgraft.config import TrainingConfig
    from qgraft.studies.run import Run

app = typer.Typer(
    name="qgraft",
    help="Graft quantum heads onto trained vision networks and score them honestly.",
    epilog="Start here: qgraft demo",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
reproduce = typer.Typer(
    help="Repeat a published study on its data, published values beside ours.",
    epilog="Example: qgraft reproduce surface --data NEU-DET --models cm2 --protocol clean",
    no_args_is_help=True,
)
app.add_typer(reproduce, name="reproduce")

Protocol = Literal["paper", "clean"]
OnError = Literal["fail", "skip"]

ProtocolOption = Annotated[
    Protocol,
    typer.Option(
        help="clean: photographs kept together, outer hold-out, matched crops. "
        "paper: as published, leaks labelled."
    ),
]
InitsOption = Annotated[int, typer.Option(help="Initialisations of a network; the best is kept.")]
EpochsOption = Annotated[int, typer.Option(help="Epochs of the classical stage.")]
HeadEpochsOption = Annotated[int, typer.Option(help="Epochs of a head.")]
FoldsOption = Annotated[int, typer.Option(help="Folds of the hybrid stage.")]
SeedOption = Annotated[int, typer.Option(help="Decides every random draw.")]
QubitsOption = Annotated[int, typer.Option(help="Qubits of the head, 1 to 12.")]
DepthOption = Annotated[int, typer.Option(help="Entangling layers of the head.")]
OutOption = Annotated[Path, typer.Option(help="Run directory.")]
ResumeOption = Annotated[bool, typer.Option("--resume", help="Go on with a stopped run.")]
JsonOption = Annotated[
    Path | None, typer.Option("--json", help="Write the result here too; - for standard output.")
]
MixedOption = Annotated[
    bool, typer.Option("--bf16", help="Train networks in bfloat16: faster, slightly coarser.")
]
OnErrorOption = Annotated[OnError, typer.Option(help="What to do about unreadable files.")]
PerClassOption = Annotated[int | None, typer.Option(help="Images per class made from boxes.")]
ClassesOption = Annotated[
    str | None, typer.Option(help="Defect classes to use, separated by commas.")
]


def main() -> None:
    """Run the command line; a user's mistake is one line and exit code 2, never a traceback."""
    try:
        app()
    except QgraftError as error:
        typer.echo(f"error: {error}", err=True)
        raise SystemExit(2) from None
    except OSError as error:
        name = f"{error.filename}: " if error.filename else ""
        typer.echo(f"error: {name}{error.strerror or error}", err=True)
        raise SystemExit(2) from None


@app.callback(invoke_without_command=True)
def version(
    show: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    """Graft quantum heads onto trained vision networks and score them honestly."""
    if show:
        from importlib.metadata import version

        typer.echo(version("qgraft"))
        raise typer.Exit


@app.command(epilog="Example: qgraft demo --out runs/demo")
def demo(
    out: OutOption = Path("runs/demo"),
    seed: SeedOption = 0,
    json_file: JsonOption = None,
) -> None:
    """Do the main job on built-in synthetic steel: train, graft, cross-validate, report.

    Takes about two minutes on two cores and needs no data and no network.
    """
    from qgraft.config import SurfaceConfig, resolve
    from qgraft.studies.demo import DEMO_SETTINGS, run_demo
    from qgraft.studies.run import remove_run

    config = resolve(SurfaceConfig, {**DEMO_SETTINGS, "seed": seed})
    remove_run(out)
    _study(out, config, False, lambda run: run_demo(run, config), json_file)


@reproduce.command(
    epilog="Example: qgraft reproduce surface --data NEU-DET --models cm2,cm3 --protocol paper"
)
def surface(
    data: Annotated[Path, typer.Option(help="Folder with IMAGES/ and ANNOTATIONS/.")],
    models: Annotated[str, typer.Option(help="Networks, separated by commas.")] = "cm1,cm2,cm3",
    protocol: ProtocolOption = "paper",
    inits: InitsOption = 5,
    epochs: EpochsOption = 120,
    head_epochs: HeadEpochsOption = 40,
    folds: FoldsOption = 6,
    seed: SeedOption = 0,
    per_class: PerClassOption = None,
    classes: ClassesOption = None,
    variants: Annotated[
        Literal["published", "all"], typer.Option(help="The nine grafts, or every k.")
    ] = "published",
    bf16: MixedOption = False,
    on_error: OnErrorOption = "fail",
    out: OutOption = Path("runs/surface"),
    resume: ResumeOption = False,
    json_file: JsonOption = None,
) -> None:
    """Repeat the surface-anomaly study (arXiv 2409.00228) on NEU-DET."""
    from qgraft.config import SurfaceConfig, resolve
    from qgraft.data.neu_det import load_photographs
    from qgraft.studies.surface import run_surface

    settings: dict[str, Any] = {
        "data": str(data),
        "models": _words(models),
        "protocol": protocol,
        "inits": inits,
        "epochs": epochs,
        "head_epochs": head_epochs,
        "folds": folds,
        "seed": seed,
        "variants": variants,
        "classes": _words(classes),
        "mixed_precision": bf16,
        "on_error": on_error,
    }
    if per_class is not None:
        settings["per_class"] = per_class
    config = resolve(SurfaceConfig, settings)
    photographs = load_photographs(data, classes=config.classes, on_error=config.on_error)
    _study(out, config, resume, lambda run: run_surface(run, photographs, config), json_file)


@app.command(epilog="Example: qgraft fit parts/ --head dressed --epochs 30 --out runs/parts")
def fit(
    data: Annotated[
        Path,
        typer.Argument(
            help="Folder with normal/ and anomalous/, with one folder per class, with images "
            "and VOC boxes, or a CSV manifest (path, label, group, split)."
        ),
    ],
    trunk: Annotated[str, typer.Option(help="Network to train: cm1, cm2 or cm3.")] = "cm2",
    trunk_weights: Annotated[
        Path | None, typer.Option(help="Trained network of an earlier run, not trained again.")
    ] = None,
    head: Annotated[str, typer.Option(help="Head to graft.")] = "dressed",
    replace_last: Annotated[str, typer.Option(help="Dense layers to replace: k or all.")] = "all",
    protocol: ProtocolOption = "clean",
    inits: InitsOption = 1,
    epochs: EpochsOption = 30,
    head_epochs: HeadEpochsOption = 40,
    folds: FoldsOption = 6,
    seed: SeedOption = 0,
    n_qubits: QubitsOption = 5,
    depth: DepthOption = 3,
    colour: Annotated[bool, typer.Option("--colour", help="Use colour, not grey.")] = False,
    per_class: PerClassOption = None,
    classes: ClassesOption = None,
    bf16: MixedOption = False,
    on_error: OnErrorOption = "fail",
    out: OutOption = Path("runs/fit"),
    resume: ResumeOption = False,
    json_file: JsonOption = None,
) -> None:
    """Fit a grafted model to your own images and report how good it is."""
    from qgraft.config import FitConfig, resolve
    from qgraft.studies.fit import read_images, run_fit

    config = resolve(
        FitConfig,
        {
            "data": str(data),
            "trunk": trunk,
            "trunk_weights": str(trunk_weights) if trunk_weights else None,
            "head": head,
            "replace_last": int(replace_last) if replace_last.isdecimal() else replace_last,
            "protocol": protocol,
            "inits": inits,
            "epochs": epochs,
            "head_epochs": head_epochs,
            "folds": folds,
            "seed": seed,
            "n_qubits": n_qubits,
            "depth": depth,
            "colour": colour,
            "per_class": per_class,
            "classes": _words(classes),
            "mixed_precision": bf16,
            "on_error": on_error,
        },
    )
    images = read_images(config)
    _study(out, config, resume, lambda run: run_fit(run, images, config), json_file)


@app.command(epilog="Example: qgraft predict runs/parts new/*.jpg --format json")
def predict(
    run: Annotated[Path, typer.Argument(help="Directory of a finished run.")],
    paths: Annotated[list[str], typer.Argument(help="Images, folders and patterns.")],
    variant: Annotated[
        str | None, typer.Option(help="Which hybrid, as CM-2/QTL-M-3; the best by default.")
    ] = None,
    kind: Annotated[Literal["csv", "json"], typer.Option("--format", help="Output.")] = "csv",
    out: Annotated[
        Path | None, typer.Option(help="File to write; standard output by default.")
    ] = None,
    on_error: OnErrorOption = "fail",
) -> None:
    """Score images with a fitted model: path, pred_score, pred_label."""
    from qgraft.errors import ImageError
    from qgraft.studies.predict import find_images, format_predictions, load_fitted
    from qgraft.studies.predict import predict as score_images
    from qgraft.terminal import Meter
    from qgraft.training.checkpoint import atomic_write

    images = find_images(paths)
    rows, skipped = [], 0
    with Meter("scoring") as meter:
        fitted = load_fitted(run, variant)
        for number, outcome in enumerate(score_images(fitted, images, on_error=on_error), 1):
            if isinstance(outcome, ImageError):
                skipped += 1
                typer.echo(f"skipped: {outcome}", err=True)
            else:
                rows.append(outcome)
            meter(number, len(images), f"{number} of {len(images)} images")
    text = format_predictions(rows, kind)
    if out:
        atomic_write(out, text)
    else:
        sys.stdout.write(text)
    if skipped:
        typer.echo(f"{skipped} of {len(images)} files skipped", err=True)


@app.command(epilog="Example: qgraft params --json -")
def params(
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write as JSON here; - for standard output.")
    ] = None,
) -> None:
    """Print the parameter table of arXiv 2409.00228 beside counts of the real networks."""
    from qgraft.reports.tables import parameter_table
    from qgraft.studies.published import parameter_rows
    from qgraft.terminal import console

    rows = parameter_rows()
    if json_file is None:
        console().print(parameter_table(rows))
    else:
        _write_json_to(json_file, rows)


@app.command(epilog="Example: qgraft bench --only A,B --threads 1 --json bench.json")
def bench(
    only: Annotated[
        str, typer.Option(help="Workloads: A, A-wide, many, B, C, C-large.")
    ] = "A,A-wide,many,B,C",
    threads: Annotated[int, typer.Option(help="Threads of torch and of the kernels.")] = 1,
    seconds: Annotated[float, typer.Option(help="Time for each workload.")] = 5.0,
    json_file: JsonOption = None,
) -> None:
    """Time training steps beside every peer that is installed, in one run."""
    import warnings

    from rich.table import Table

    from qgraft.bench.run import run_bench
    from qgraft.studies.run import environment
    from qgraft.terminal import console

    warnings.simplefilter("ignore")  # peers warn about what they will change one day
    timings = run_bench(
        _words(only) or (),
        threads=threads,
        seconds=seconds,
        on_skip=lambda line: typer.echo(line, err=True),
        on_timing=lambda t: typer.echo(
            f"{t.workload}: {t.contestant} {t.milliseconds} ms", err=True
        ),
    )
    table = Table(caption="Median time of one training step; ratio to the first of its workload.")
    for title in ("workload", "contestant", "ms", "ratio"):
        table.add_column(title, justify="right" if title in ("ms", "ratio") else "left")
    before = ""
    for timing in timings:
        title = timing.workload if timing.workload != before else ""
        before = timing.workload
        numbers = (f"{timing.milliseconds:.3f}", f"{timing.ratio:.2f}")
        table.add_row(title, timing.contestant, *numbers)
    console().print(table)
    if json_file is not None:
        rows = [timing._asdict() for timing in timings]
        _write_json_to(json_file, {"rows": rows, "environment": environment()})


def _study(
    out: Path,
    config: TrainingConfig,
    resume: bool,
    body: Callable[[Run], dict[str, Any]],
    json_file: Path | None,
) -> None:
    """Run a study in its directory with live progress, then print its table and write its page."""
    from qgraft.reports.html import write_report
    from qgraft.reports.rundir import read_run
    from qgraft.reports.tables import terminal_table
    from qgraft.studies.run import open_run
    from qgraft.terminal import Meter, console

    settings = {**config.model_dump(mode="json"), "command": _command()}
    if json_file is not None and json_file.is_dir():
        raise ConfigError(f"--json {json_file} is a folder; name a file, or - for the screen")
    try:
        with Meter("training") as meter:
            result = body(open_run(out, settings, resume=resume, progress=meter))
    except KeyboardInterrupt:
        typer.echo(f"stopped; {out} goes on with the same command and --resume", err=True)
        raise typer.Exit(130) from None
    # With the JSON on standard output, everything for people goes to the other stream.
    screen = console(stderr=str(json_file) == "-")
    page = write_report(out)
    screen.print(terminal_table(read_run(out).result))
    screen.print(f"report: {page}", soft_wrap=True, highlight=False)
    if json_file is not None:
        _write_json_to(json_file, result)


def _command() -> str:
    """Return the command as it would be typed again from the start."""
    import shlex

    words = [word for word in sys.argv[1:] if word != "--resume"]
    return shlex.join(["qgraft", *words])


def _write_json_to(path: Path, value: Any) -> None:
    from qgraft.training.checkpoint import write_json

    if str(path) == "-":
        typer.echo(json.dumps(value, indent=2))
    else:
        write_json(path, value)


def _words(text: str | None) -> tuple[str, ...] | None:
    return tuple(word.strip() for word in text.split(",") if word.strip()) if text else None
