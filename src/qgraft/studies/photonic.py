"""Transfer from photonic networks: to a classical head (QC) and to more photonic layers (QQ).

QC: 25 two-mode layers learn to turn seven coherent states into the photon-number patterns of the
seven tetrominoes (Killoran et al., arXiv 1806.06871, IV.D); their first layers become a trunk, and
a dense layer tells noisy versions of the seven inputs apart (arXiv 1912.08278, example 4). QQ: one
layer that told Gaussian from non-Gaussian states is followed by three new ones that tell squeezed
coherent states from squeezed single photons (example 5).
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from qgraft.config import PhotonicConfig
from qgraft.heads.photonic import FockAmplitudes
from qgraft.seeds import numpy_rng
from qgraft.simulate.fock import lost_norm
from qgraft.studies.photonic_tasks import (
    DEPTH,
    SIDE,
    STATES,
    TETROMINOES,
    dense_layer,
    fidelities,
    noisy_states,
    published_layer,
    squeezed_states,
    target_layers,
    tetromino_network,
)
from qgraft.studies.qcnn_cells import Contestant, PairTask, Scores, train_cell
from qgraft.studies.run import Run, Unit, keep_data
from qgraft.studies.transfer_cells import result_row
from qgraft.training.checkpoint import write_json
from qgraft.training.loop import Samples
from qgraft.training.minibatch import StepRecipe
from qgraft.transfer import Transfer

BATCH, RATE = 8, 0.01
PUBLISHED_STEPS = 500
PUBLISHED_CUT = (15, 1000)  # layers kept and steps
# Readings of example 5: its key, its title, whether layer A squeezes, whether V is exact.
READINGS = (
    ("published", "as published: no squeezing, x cut off", False, False),
    ("squeezing", "with squeezing, x cut off", True, False),
    ("exact", "with squeezing, V exact", True, True),
)
PUBLISHED = {"photonic-qc": 0.8067, "photonic-qq": 0.8755}


class Cell(NamedTuple):
    """A head on the features of a trunk, one row of the table.

    Attributes:
        title: names the row.
        contestant: the head and how it is trained.
        task: what it is trained on.
        is_published: whether the published value is of this cell.
    """

    title: str
    contestant: Contestant
    task: PairTask
    is_published: bool


def run_photonic(run: Run, config: PhotonicConfig) -> dict[str, Any]:
    """Run one of the two studies in its directory and return what `result.json` holds."""
    is_qc = config.study == "photonic-qc"
    n_trunks = len(config.keep) if is_qc else len(READINGS)
    run.work = n_trunks * config.seeds * sum(map(_work_of_head, config.steps))
    run.work += config.source_steps if is_qc else 0
    keep_data(run.folder, {"digest": "drawn from the seed", "splits": {}})
    cells, facts = _qc_cells(run, config) if is_qc else _qq_cells(config)
    run.spread(run, (_unit(cell, config) for cell in cells))
    result = {
        "study": config.study,
        "rows": [_row(run, cell, config) for cell in cells],
        "notes": _notes(config),
        "facts": facts,
        "config": config.model_dump(mode="json"),
    }
    write_json(run.folder / "result.json", result)
    run.finish()
    return result


def _qc_cells(run: Run, config: PhotonicConfig) -> tuple[list[Cell], dict[str, Any]]:
    network = tetromino_network(run, config)
    with torch.no_grad():
        overlap, norms = fidelities(network)
    parts = [
        noisy_states(n, numpy_rng(config.seed, part))
        for part, n in (("training", max(config.steps)), ("test", config.test_batches))
    ]
    cells, lost = [], {}
    for keep in config.keep:
        read = FockAmplitudes(SIDE)
        transfer = Transfer(network, keep, nn.Sequential(read, dense_layer()))
        kets = [predict_kets(transfer, inputs) for inputs, _ in parts]
        lost[str(keep)] = float(lost_norm(kets[0], 2).mean())
        features = [read(each).float() for each in kets]
        task = _task(features, [labels for _, labels in parts])
        for steps in config.steps:
            # A batch holds each of the seven states once, as published.
            recipe = StepRecipe(steps, len(STATES), RATE)
            contestant = Contestant(f"keep-{keep}-{steps}", dense_layer, recipe, whole=True)
            title = f"{keep} of {DEPTH} photonic layers, then dense, {steps} steps"
            title = f"{title} ({transfer.scheme})"
            cells.append(Cell(title, contestant, task, (keep, steps) == PUBLISHED_CUT))
    facts = {
        "fidelities": dict(zip(TETROMINOES, overlap.tolist(), strict=True)),
        "smallest norm of a tetromino": float(norms.min()),
        "mean norm lost by noisy states": lost,
    }
    return cells, facts


def _qq_cells(config: PhotonicConfig) -> tuple[list[Cell], dict[str, Any]]:
    parts = [
        squeezed_states(n * BATCH, numpy_rng(config.seed, part))
        for part, n in (("training", max(config.steps)), ("test", config.test_batches))
    ]
    cells, lost = [], {}
    for key, name, squeezes, exact in READINGS:
        build = partial(target_layers, exact=exact)
        transfer = Transfer(published_layer(squeezes=squeezes, exact=exact), 1, build())
        kets = [predict_kets(transfer, inputs) for inputs, _ in parts]
        lost[name] = float(lost_norm(kets[1], 1).mean())
        task = _task(kets, [labels for _, labels in parts])
        for steps in config.steps:
            contestant = Contestant(f"{key}-{steps}", build, StepRecipe(steps, BATCH, RATE))
            title = f"{name}, {steps} steps ({transfer.scheme})"
            is_published = key == "published" and steps == PUBLISHED_STEPS
            cells.append(Cell(title, contestant, task, is_published))
    return cells, {"mean norm lost after layer A": lost}


def _task(inputs: list[Tensor], labels: list[Tensor]) -> PairTask:
    training, test = map(Samples, inputs, labels)
    return PairTask("states", training, test)


@torch.no_grad()
def predict_kets(transfer: Transfer, inputs: Tensor) -> Tensor:
    """Return the kets that leave the frozen trunk."""
    return torch.cat([transfer.features(part) for part in inputs.split(512)])


def _work_of_head(steps: int) -> float:
    return steps / 10


def _unit(cell: Cell, config: PhotonicConfig) -> Unit:
    path = Path("heads") / f"{cell.contestant.key}-{cell.task.name}.safetensors"
    return Unit(_train, (cell.task, config), (cell.contestant,), (str(path),))


def _train(run: Run, task: PairTask, config: PhotonicConfig, contestant: Contestant) -> Scores:
    def report(accuracy: float) -> None:
        work = _work_of_head(contestant.recipe.steps)
        run.advance(work, f"{contestant.key}: {100 * accuracy:.1f} %")

    with run.timed("heads"):
        return train_cell(
            contestant, task, seed=config.seed, n_seeds=config.seeds,
            folder=run.folder / "heads", on_seed=report,
        )  # fmt: skip


def _row(run: Run, cell: Cell, config: PhotonicConfig) -> dict[str, Any]:
    scores = _train(run, cell.task, config, cell.contestant)
    published = PUBLISHED[config.study] if cell.is_published else None
    return result_row(config.study, cell.title, scores.n_params, scores.accuracies, published)


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
