"""From simulation to hardware: look into a circuit, score a head under noise or on a device."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from qgraft.cli.apps import app
from qgraft.cli.options import JsonOption, SeedOption
from qgraft.cli.study import write_json_to
from qgraft.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable

    from qgraft.circuits.circuit import Circuit
    from qgraft.heads.measured import Run

CIRCUITS = "surface, dressed, qcnn, or sim-1 to sim-19, with :N for N qubits, as in surface:5"
ALL_TEMPLATES = "sim"


@app.command(epilog="Example: qgraft inspect surface:5 --figure circuit.svg")
def inspect(
    what: Annotated[
        str,
        typer.Argument(
            help=f"A run directory, or a circuit: {CIRCUITS}. sim: the nineteen templates of arXiv "
            "1905.10876 beside what was published."
        ),
    ],
    variant: Annotated[str | None, typer.Option(help="Which hybrid of a run.")] = None,
    samples: Annotated[int, typer.Option(help="Random draws behind each number.")] = 1000,
    figure: Annotated[Path | None, typer.Option(help="Draw the circuit to this SVG.")] = None,
    seed: SeedOption = 0,
    json_file: JsonOption = None,
) -> None:
    """Show a circuit: its drawing, its parameters and which act, what it can express."""
    from qgraft.reports.inspection import facts_of, parameter_table
    from qgraft.terminal import console

    if what == ALL_TEMPLATES and not Path(what).is_dir():
        if variant is not None or figure is not None:
            raise ConfigError("'sim' takes no --variant and no --figure; name one circuit for them")
        _inspect_templates(samples, seed, json_file)
        return
    circuit, weights = _circuit_of(what, variant)
    facts = facts_of(circuit, weights, n_samples=samples, seed=seed)
    screen = console(stderr=str(json_file) == "-")
    screen.print(circuit.draw(), markup=False, highlight=False, soft_wrap=True)
    screen.print(parameter_table(facts["parameters"]))
    for name, value in facts["summary"].items():
        screen.print(f"{name}: {value}", markup=False)
    if figure is not None:
        from qgraft.devices.to_pennylane import draw_mpl

        draw_mpl(circuit).savefig(figure)
        screen.print(f"drawn to {figure}", markup=False)
    if json_file is not None:
        write_json_to(json_file, facts)


def _inspect_templates(samples: int, seed: int, json_file: Path | None) -> None:
    from qgraft.evaluation.sim_descriptors import order_agreement, template_descriptors
    from qgraft.reports.inspection import check_samples, template_table
    from qgraft.terminal import console

    check_samples(samples)
    rows = template_descriptors(samples, seed)
    agreement = order_agreement(rows)
    screen = console(stderr=str(json_file) == "-")
    screen.print(template_table(rows))
    for name, value in agreement.items():
        screen.print(f"rank correlation of {name}: {value:.3f}", markup=False)
    if json_file is not None:
        found = {"rows": [row._asdict() for row in rows], "rank_correlation": agreement}
        write_json_to(json_file, {**found, "samples": samples, "seed": seed})


def _circuit_of(what: str, variant: str | None) -> tuple[Circuit, Any]:
    """Return a circuit, and the trained weights if it is that of a run."""
    if not Path(what).is_dir():
        return named_circuit(what), None
    from qgraft.heads.measured import with_circuit
    from qgraft.studies.predict import load_fitted

    head = with_circuit(load_fitted(Path(what), variant).model.head)
    return head.circuit, head.weights


def named_circuit(text: str) -> Circuit:
    """Return the circuit called `name` or `name:n_qubits`.

    Raises:
        ConfigError: there is none.
    """
    from qgraft.circuits.ansatz import dressed_circuit, surface_circuit
    from qgraft.circuits.qcnn import qcnn_circuit
    from qgraft.circuits.sim import sim_circuit

    name, _, size = text.partition(":")
    if size and not (size.isascii() and size.isdecimal()):
        raise ConfigError(f"{size!r} is no number of qubits; known circuits: {CIRCUITS}")
    n = {"n_qubits": int(size)} if size else {}
    if name.startswith("sim-") and name[4:].isdecimal():
        return sim_circuit(int(name[4:]), **n)
    builders = {"surface": surface_circuit, "dressed": dressed_circuit, "qcnn": qcnn_circuit}
    if name not in builders:
        raise ConfigError(
            f"{text!r} is no run directory and no circuit; known: {CIRCUITS}; sim for all templates"
        )
    return builders[name](**n)


RUNS = "A finished run of reproduce surface (clean), ants-bees, cifar or qcnn."


@app.command(
    epilog="Example: qgraft hardware runs/surface --backend pennylane:qiskit.aer "
    "--noise-from FakeManilaV2 --shots 1024 --images 40"
)
def hardware(
    run: Annotated[Path, typer.Argument(help=RUNS)],
    variant: Annotated[
        str | None,
        typer.Option(help="Which head: CM-2/QTL-M-2, dogs-cats#3, su4-generalised-0-1#0 ..."),
    ] = None,
    data: Annotated[Path | None, typer.Option(help="The images, if they moved.")] = None,
    backend: Annotated[
        str | None,
        typer.Option(help="Score on a device: pennylane:NAME or ibm:NAME. Without it: a study."),
    ] = None,
    noise_from: Annotated[
        str | None, typer.Option(help="Simulate this machine, such as FakeManilaV2.")
    ] = None,
    shots: Annotated[int, typer.Option(help="Measurements of each image on the device.")] = 1024,
    images: Annotated[int, typer.Option(help="Hold-out images to run on the device.")] = 40,
    epochs: Annotated[int, typer.Option(help="Epochs of training under noise.")] = 5,
    strengths: Annotated[
        str | None, typer.Option(help="Depolarising probabilities of the study, as 0.01,0.05.")
    ] = None,
    estimate: Annotated[
        bool, typer.Option("--estimate", help="Print what it would cost and stop.")
    ] = False,
    send: Annotated[
        bool, typer.Option("--send", help="Really send the jobs to a machine that is paid for.")
    ] = False,
    out: Annotated[Path | None, typer.Option(help="Folder for table and figure.")] = None,
    seed: SeedOption = 0,
    json_file: JsonOption = None,
) -> None:
    """Score a trained head under shots and noise, on a PennyLane device or at IBM Quantum."""
    from qgraft.devices.device import estimate_cost
    from qgraft.reports.hardware import hardware_table, write_hardware
    from qgraft.studies.hardware import STRENGTHS, run_noise_study, score_on_device
    from qgraft.studies.hardware_heads import load_head
    from qgraft.terminal import Meter, console

    screen = console(stderr=str(json_file) == "-")
    if images < 2:
        raise ConfigError(f"--images must be 2 or more, got {images}")
    if backend is None and (noise_from or estimate or send):
        raise ConfigError("--noise-from, --estimate and --send go with --backend pennylane:NAME")
    where = _device(backend, noise_from, shots, out, send) if backend else None
    noises = _strengths(strengths) or STRENGTHS
    head = load_head(run, variant, data)
    if where is not None:
        count = min(images, len(head.holdout.labels))
        cost = estimate_cost(head.head.circuit, count, shots, noise_from=where.machine)
        screen.print(str(cost), highlight=False)
        if estimate or where.open is None:
            if not estimate:
                screen.print("nothing was sent; add --send to send and pay for it")
            return
        result = score_on_device(head, where.open(), count, seed)
        result = {
            "task": head.task, "variant": head.variant, "backend": backend,
            "noise_from": noise_from, "shots": shots, **result,
        }  # fmt: skip
        screen.print(json.dumps(result, indent=2), markup=False)
    else:
        with Meter("measuring") as meter:
            result = run_noise_study(
                head, strengths=noises, epochs=epochs, seed=seed, progress=meter
            )
        screen.print(hardware_table(result), markup=False, soft_wrap=True)
    if out is not None:
        from qgraft.training.checkpoint import write_json

        write_json(out / "hardware.json", result)
        if where is None:
            write_hardware(out, result)
    if json_file is not None:
        write_json_to(json_file, result)


class _Device(NamedTuple):
    """Where circuits run: how it is opened, None if that costs and was not asked for.

    `machine` is the snapshot that costs are estimated for, if there is one.
    """

    open: Callable[[], Run] | None
    machine: str | None


def _device(
    backend: str, noise_from: str | None, shots: int, out: Path | None, send: bool
) -> _Device:
    """Return the device of `pennylane:NAME` or `ibm:NAME`.

    Raises:
        ConfigError: it is none of them, or lacks a folder for its jobs.
    """
    from qgraft.devices.device import device_name, device_run
    from qgraft.devices.ibm import FAKE, PREFIX, open_ibm
    from qgraft.studies.jobs import job_run

    if not backend.startswith(PREFIX):
        name = device_name(backend)
        return _Device(lambda: device_run(name, shots=shots, noise_from=noise_from), noise_from)
    name = backend.removeprefix(PREFIX)
    if noise_from is not None:
        raise ConfigError("--noise-from goes with pennylane:NAME; write ibm:FakeManilaV2 instead")
    if out is None:
        raise ConfigError("jobs at IBM Quantum need a folder that keeps their numbers: --out")
    is_free = name.startswith(FAKE)
    if not (is_free or send):
        return _Device(None, None)
    return _Device(lambda: job_run(out / "jobs", shots, open_ibm(name)), name if is_free else None)


def _strengths(text: str | None) -> tuple[float, ...] | None:
    """Read probabilities separated by commas.

    Raises:
        ConfigError: a word is no probability.
    """
    if text is None:
        return None
    try:
        found = tuple(float(word) for word in text.split(","))
    except ValueError:
        found = (-1.0,)
    if not all(0 <= value <= 1 for value in found):
        raise ConfigError(f"--strengths {text!r}: give probabilities from 0 to 1, as 0.01,0.05")
    return found
