"""Transfer from photonic networks: to a classical head (QC) and to more photonic layers (QQ).

QC: 25 two-mode layers learn to turn seven coherent states into the photon-number patterns of the
seven tetrominoes (Killoran et al., arXiv 1806.06871, IV.D); their first layers become a trunk, and
a dense layer tells noisy versions of the seven inputs apart (arXiv 1912.08278, example 4). QQ: one
layer that told Gaussian from non-Gaussian states is followed by three new ones that tell squeezed
coherent states from squeezed single photons (example 5).
"""

from __future__ import annotations

from functools import partial
from math import pi
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from qgraft.config import PhotonicConfig
from qgraft.errors import WeightsError
from qgraft.heads.photonic import FockAmplitudes, OneModeLayers, TwoModeLayers, VacuumLogits
from qgraft.seeds import numpy_rng, torch_stream
from qgraft.simulate.fock import coherent, lost_norm, rotation, squeezing, vacuum
from qgraft.studies.qcnn_cells import Contestant, PairTask, Scores, train_cell
from qgraft.studies.run import Run, keep_data
from qgraft.studies.transfer_cells import result_row
from qgraft.training.checkpoint import load_tensors, save_tensors, write_json
from qgraft.training.kept import load_weights
from qgraft.training.loop import Samples
from qgraft.training.minibatch import StepRecipe, descent
from qgraft.transfer import Transfer

TWO_MODE_CUTOFF, ONE_MODE_CUTOFF = 11, 15
DEPTH, SIDE = 25, 4
ALPHA, NOISE = 1.4, 0.6
STATES = ((1, 1), (-1, 1), (1, -1), (-1, -1), (1j, 1j), (-1j, 1j), (1j, -1j))  # times ALPHA
TETROMINOES = {
    "L": "#... #... ##.. ....",
    "O": "##.. ##.. .... ....",
    "T": "###. .#.. .... ....",
    "I": "#### .... .... ....",
    "S": ".##. ##.. .... ....",
    "J": ".#.. .#.. ##.. ....",
    "Z": "##.. .##. .... ....",
}
# Of the pre-training; published are 50,000 steps at rate 0.001.
SOURCE_RATE, PASSIVE_SPREAD, TRACE_PENALTY = 0.01, 0.1, 100.0
PHASES = (4, 6, 11, 13)  # of squeezing and displacement; they start at N(0, 1), as published
# Layer A of example 5: squeezing, displacement, three angles, cubic phase.
PUBLISHED_LAYER = (0.7160148, 0.44807276, 0.05455275, 0.00412069, 0.27611843, 0.1667125)
TARGET_DEPTH = 3
SQUEEZED = 0.5  # bound of the squeezing of the states of example 5
PUBLISHED_STEPS = 500
PUBLISHED_CUT = (15, 1000)  # layers kept and steps
# Readings of example 5: its key, its title, whether layer A squeezes, whether V is exact.
READINGS = (
    ("published", "as published: no squeezing, x cut off", False, False),
    ("squeezing", "with squeezing, x cut off", True, False),
    ("exact", "with squeezing, V exact", True, True),
)
PUBLISHED = {"photonic-qc": 0.8067, "photonic-qq": 0.8755}


def targets() -> Tensor:
    """Return the tetromino kets `(7, 4, 4)`, amplitude 1/2 on each of four squares."""
    rows = ["".join(picture.split()) for picture in TETROMINOES.values()]
    flat = [[(square == "#") / 2 for square in row] for row in rows]
    return torch.tensor(flat, dtype=torch.float64).view(-1, SIDE, SIDE)


def two_mode_states(amplitudes: Tensor) -> Tensor:
    """Return products of coherent states `(n, cutoff, cutoff)` of amplitudes `(n, 2)`."""
    first, second = coherent(amplitudes, TWO_MODE_CUTOFF).unbind(-2)
    return first[:, :, None] * second[:, None, :]


def source_inputs() -> Tensor:
    """Return the seven input kets of the tetromino network."""
    return two_mode_states(ALPHA * torch.tensor(STATES, dtype=torch.complex128))


def fidelities(network: nn.Module) -> tuple[Tensor, Tensor]:
    """Return how well each tetromino is drawn `(7,)`, and the squared norms of the kets `(7,)`.

    As published, a picture is what is left after projection on at most three photons a mode.
    """
    kets = network(source_inputs())
    pictures = kets[:, :SIDE, :SIDE]
    overlaps = (pictures * targets()).sum((1, 2)).abs().square()
    return overlaps / pictures.abs().square().sum((1, 2)), 1 - lost_norm(kets, 2)


def drawing_cost(network: nn.Module) -> Tensor:
    """Return the published cost of the pre-training: missed fidelity, and norm that was lost."""
    overlap, norms = fidelities(network)
    penalty = TRACE_PENALTY * (norms.square() - 1).square().sum()
    return (1 - overlap).square().mean() + penalty


def tetromino_network(run: Run, config: PhotonicConfig) -> TwoModeLayers:
    """Return the network of 25 layers, pre-trained anew, or read from the run or `config.source`.

    Raises:
        WeightsError: the file does not hold such a network.
    """
    from pathlib import Path

    with torch_stream(config.seed, "tetrominoes"):
        network = TwoModeLayers(
            DEPTH, passive_spread=PASSIVE_SPREAD, active_spread=config.source_spread
        )
    with torch.no_grad():
        network.weights[:, PHASES] /= PASSIVE_SPREAD
    path = Path(config.source) if config.source else run.folder / "trunks" / "tetromino.safetensors"
    if config.source and not path.is_file():
        raise WeightsError(f"{path} does not exist; leave --source out to train the network anew")
    if path.exists():
        load_weights(network, load_tensors(path), path)
        run.advance(config.source_steps, "network read")
        return network
    step = descent(network, StepRecipe(config.source_steps, learning_rate=SOURCE_RATE))

    with run.timed("source"):
        for _ in range(config.source_steps):
            run.advance(1, f"tetrominoes, cost {step(partial(drawing_cost, network)):.4f}")
    save_tensors(path, network.state_dict())
    return network


def noisy_states(n: int, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Return `n` times the seven coherent states, each displaced at random, and their numbers."""
    noise = rng.normal(0, NOISE, (n, len(STATES), 2, 2)) @ np.array([1, 1j])
    amplitudes = torch.from_numpy(ALPHA * np.array(STATES) + noise).flatten(0, 1)
    return two_mode_states(amplitudes), torch.arange(len(STATES)).repeat(n)


def squeezed_states(n: int, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Return `n` kets of example 5 `(n, cutoff)` and labels: 0 coherent, 1 a single photon."""
    labels = torch.from_numpy(rng.integers(0, 2, n))
    photon = torch.roll(vacuum(1, ONE_MODE_CUTOFF), 1)
    start = torch.stack([coherent(torch.ones((), dtype=torch.complex128), ONE_MODE_CUTOFF), photon])
    turns = torch.from_numpy(rng.uniform(-2 * pi, 2 * pi, (n, 2)))
    r = torch.from_numpy(rng.uniform(-SQUEEZED, SQUEEZED, n))
    kets = start[labels] * rotation(turns[:, 0], ONE_MODE_CUTOFF)
    kets = (squeezing(r, torch.zeros_like(r), ONE_MODE_CUTOFF) @ kets[..., None])[..., 0]
    return kets * rotation(turns[:, 1], ONE_MODE_CUTOFF), labels


def dense_layer() -> nn.Linear:
    """Return the classical head of example 4, with the first weights of its source."""
    layer = nn.Linear(SIDE * SIDE, len(STATES))
    nn.init.xavier_uniform_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


def published_layer(*, squeezes: bool, exact: bool = True) -> OneModeLayers:
    """Return layer A of example 5; `squeezes=False` leaves a gate out, as published code did."""
    layer = OneModeLayers(1, squeezes=squeezes, exact=exact)
    with torch.no_grad():
        layer.weights.copy_(torch.tensor([PUBLISHED_LAYER], dtype=torch.float64))
    return layer


def run_photonic(run: Run, config: PhotonicConfig) -> dict[str, Any]:
    """Run one of the two studies in its directory and return what `result.json` holds."""
    is_qc = config.study == "photonic-qc"
    cells = len(config.keep) if is_qc else len(READINGS)
    run.work = cells * config.seeds * sum(config.steps) / 10
    run.work += config.source_steps if is_qc else 0
    keep_data(run.folder, {"digest": "drawn from the seed", "splits": {}})
    rows, facts = _qc(run, config) if is_qc else _qq(run, config)
    result = {
        "study": config.study,
        "rows": rows,
        "notes": _notes(config),
        "facts": facts,
        "config": config.model_dump(mode="json"),
    }
    write_json(run.folder / "result.json", result)
    run.finish()
    return result


def _qc(run: Run, config: PhotonicConfig) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    network = tetromino_network(run, config)
    with torch.no_grad():
        overlap, norms = fidelities(network)
    parts = [
        noisy_states(n, numpy_rng(config.seed, part))
        for part, n in (("training", max(config.steps)), ("test", config.test_batches))
    ]
    rows, lost = [], {}
    for keep in config.keep:
        read, build = FockAmplitudes(SIDE), dense_layer
        transfer = Transfer(network, keep, nn.Sequential(read, build()))
        kets = [predict_kets(transfer, inputs) for inputs, _ in parts]
        lost[str(keep)] = float(lost_norm(kets[0], 2).mean())
        features = [read(each).float() for each in kets]
        task = PairTask(
            "states", *(Samples(f, y) for f, (_, y) in zip(features, parts, strict=True))
        )
        for steps in config.steps:
            scores = _train(run, f"keep-{keep}-{steps}", build, task, len(STATES), steps, config)
            name = f"{keep} of {DEPTH} photonic layers, then dense, {steps} steps"
            published = PUBLISHED["photonic-qc"] if (keep, steps) == PUBLISHED_CUT else None
            rows.append(
                result_row("photonic-qc", f"{name} ({transfer.scheme})", scores.n_params,
                           scores.accuracies, published)
            )  # fmt: skip
    facts = {
        "fidelities": dict(zip(TETROMINOES, overlap.tolist(), strict=True)),
        "smallest norm of a tetromino": float(norms.min()),
        "mean norm lost by noisy states": lost,
    }
    return rows, facts


def _qq(run: Run, config: PhotonicConfig) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    batch = 8
    parts = [
        squeezed_states(n * batch, numpy_rng(config.seed, part))
        for part, n in (("training", max(config.steps)), ("test", config.test_batches))
    ]
    rows, lost = [], {}
    for key, name, squeezes, exact in READINGS:
        build = partial(_target_layers, exact)
        transfer = Transfer(published_layer(squeezes=squeezes, exact=exact), 1, build())
        kets = [predict_kets(transfer, inputs) for inputs, _ in parts]
        lost[name] = float(lost_norm(kets[1], 1).mean())
        task = PairTask("states", *(Samples(k, y) for k, (_, y) in zip(kets, parts, strict=True)))
        for steps in config.steps:
            scores = _train(run, f"{key}-{steps}", build, task, batch, steps, config)
            as_published = key == "published" and steps == PUBLISHED_STEPS
            title = f"{name}, {steps} steps ({transfer.scheme})"
            published = PUBLISHED["photonic-qq"] if as_published else None
            rows.append(
                result_row("photonic-qq", title, scores.n_params, scores.accuracies, published)
            )
    return rows, {"mean norm lost after layer A": lost}


def _target_layers(exact: bool) -> nn.Sequential:
    return nn.Sequential(OneModeLayers(TARGET_DEPTH, exact=exact), VacuumLogits())


def _train(
    run: Run,
    key: str,
    build: Any,
    task: PairTask,
    batch: int,
    steps: int,
    config: PhotonicConfig,
) -> Scores:
    # A batch of the first study holds each of the seven states once, as published.
    is_qc = config.study == "photonic-qc"
    contestant = Contestant(key, build, StepRecipe(steps, batch, 0.01), whole=is_qc)
    with run.timed("heads"):
        return train_cell(
            contestant, task, seed=config.seed, n_seeds=config.seeds, folder=run.folder / "heads",
            on_seed=lambda value: run.advance(steps / 10, f"{key}: {100 * value:.1f} %"),
        )  # fmt: skip


@torch.no_grad()
def predict_kets(transfer: Transfer, inputs: Tensor) -> Tensor:
    """Return the kets that leave the frozen trunk."""
    return torch.cat([transfer.features(part) for part in inputs.split(512)])


def _notes(config: PhotonicConfig) -> list[str]:
    common = [
        "Published values are single runs.",
        "Gates are exact and cut off at the largest photon number, unless a row says otherwise; "
        "lost norm is reported.",
    ]
    if config.study == "photonic-qc":
        return [
            *common,
            "The tetromino network was pre-trained anew: its published weights are "
            "not available, so its features are not those of the source.",
        ]
    return [
        *common,
        "The published code builds the squeezing gate of layer A but never applies "
        "it; all readings are given.",
    ]
