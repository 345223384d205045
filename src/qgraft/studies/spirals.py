"""Dressed circuits on points of the plane, and classical networks of the same size beside them.

Two spirals, a square, half moons (arXiv 1912.08278, example 1): 1,000 steps of Adam on ten points.
The published classical counterpart starts, like the circuit, from weights of size 0.001; the
controls start as dense layers usually do, or bend with a sine.
"""

from __future__ import annotations

from functools import partial
from math import pi
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from qgraft.circuits.ansatz import dressed_circuit
from qgraft.config import SpiralsConfig
from qgraft.data.spirals import Points, draw_points
from qgraft.heads.controls import Sine
from qgraft.heads.dressed import DressedHead
from qgraft.studies.run import Run, keep_data
from qgraft.studies.transfer_cells import Contestant, result_row, seeds_unit, train_seeds
from qgraft.training.checkpoint import save_tensors, write_json
from qgraft.training.loop import Recipe, Samples, predict_logits

DEPTH = 5
SPREAD = 0.001  # of all first weights, as published
BATCH = 10
RATES = {"square": 0.1, "moons": 0.1}  # 0.07 for the spirals
GRID, EDGE = 160, 2.2  # of the maps of decisions
# Published in the notebooks, one run each: circuit and classical counterpart.
PUBLISHED = {
    ("spirals-1.52", "dressed-5"): 0.970,
    ("spirals-1.52", "tanh-5-small"): 0.855,
    ("spirals-2.0", "dressed-5"): 0.625,
    ("spirals-2.0", "tanh-5-small"): 0.540,
    ("square", "dressed-5"): 0.930,
    ("square", "tanh-5-small"): 0.905,
    ("moons", "dressed-5"): 0.965,
    ("moons", "tanh-5-small"): 0.975,
}


class Model(NamedTuple):
    """A network from two numbers to two logits."""

    title: str
    build: Any


def dressed(n_qubits: int) -> nn.Module:
    """Build the published dressed circuit, all weights N(0, 0.001**2)."""
    return _small(DressedHead(2, 2, dressed_circuit(n_qubits, DEPTH), scale=pi / 2))


def classical(width: int, first: type[nn.Module], second: type[nn.Module]) -> nn.Sequential:
    """Build three dense layers, the middle one in place of the circuit, with usual weights."""
    return nn.Sequential(
        nn.Linear(2, width), first(), nn.Linear(width, width), second(), nn.Linear(width, 2)
    )


def classical_small(width: int) -> nn.Module:
    """Build the published counterpart, all weights N(0, 0.001**2)."""
    return _small(classical(width, nn.Tanh, nn.Tanh))


def _small(network: nn.Module) -> nn.Module:
    for parameter in network.parameters():
        nn.init.normal_(parameter, 0.0, SPREAD)
    return network


MODELS = {
    "dressed-5": Model("dressed, 5 qubits", partial(dressed, 5)),
    "dressed-4": Model("dressed, 4 qubits", partial(dressed, 4)),
    "tanh-5-small": Model("tanh, 5 wide, published start", partial(classical_small, 5)),
    "tanh-4-small": Model("tanh, 4 wide, published start", partial(classical_small, 4)),
    "tanh-5": Model("tanh, 5 wide", partial(classical, 5, nn.Tanh, nn.Tanh)),
    "tanh-sine-5": Model("tanh then sine, 5 wide", partial(classical, 5, nn.Tanh, Sine)),
    "sine-5": Model("sine, 5 wide", partial(classical, 5, Sine, Sine)),
}


def run_spirals(run: Run, config: SpiralsConfig) -> dict[str, Any]:
    """Run the study in its directory and return what `result.json` holds."""
    drawn = {shape: draw_points(shape) for shape in config.shapes}
    run.work = float(len(drawn) * len(MODELS))
    keep_data(run.folder, _described(drawn))
    rows, maps = [], {}
    parts = {shape: _samples(points) for shape, points in drawn.items()}
    seeds: dict[str, Any] = {"seed": config.seed, "n_seeds": config.seeds}
    run.spread(
        run,
        (
            seeds_unit(shape, _contestant(shape, key, config), *part, **seeds)
            for shape, part in parts.items()
            for key in MODELS
        ),
    )
    for shape, part in parts.items():
        for key, model in MODELS.items():
            with run.timed("training"):
                contestant = _contestant(shape, key, config)
                outcome = train_seeds(run, shape, contestant, *part, **seeds)
            accuracies = outcome.accuracies("test")
            published = PUBLISHED.get((shape, key))
            rows.append(result_row(shape, model.title, outcome.n_params, accuracies, published))
            maps[f"{shape}/{model.title}"] = decision_map(model, outcome.states, accuracies)
            run.advance(1, f"{model.title} on {shape}: {100 * accuracies.mean():.1f} %")
    points = {f"points.{shape}": torch.from_numpy(drawn[shape].test) for shape in drawn}
    labels = {f"labels.{shape}": torch.from_numpy(drawn[shape].test_labels) for shape in drawn}
    save_tensors(run.folder / "heads" / "maps.safetensors", {**maps, **points, **labels})
    result = {"study": "spirals", "rows": rows, "notes": _notes(config),
              "config": config.model_dump(mode="json")}  # fmt: skip
    write_json(run.folder / "result.json", result)
    run.finish()
    return result


def _contestant(shape: str, key: str, config: SpiralsConfig) -> Contestant:
    recipe = Recipe(config.epochs, RATES.get(shape, 0.07), BATCH)
    return Contestant(key, MODELS[key].title, MODELS[key].build, recipe)


def decision_map(
    model: Model, states: dict[str, torch.Tensor], accuracies: np.ndarray
) -> torch.Tensor:
    """Return the probability of class 1 on a grid of the plane `(GRID, GRID)`, x last.

    Of the head whose accuracy is the median of its seeds.
    """
    middle = int(np.argsort(accuracies, kind="stable")[len(accuracies) // 2])
    network = model.build()
    network.load_state_dict({name: state[middle] for name, state in states.items()})
    axis = torch.linspace(-EDGE, EDGE, GRID)
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    logits = predict_logits(network, torch.stack([x.flatten(), y.flatten()], 1))
    return logits.softmax(-1)[:, 1].view(GRID, GRID)


def _samples(points: Points) -> tuple[Samples, np.ndarray, dict[str, np.ndarray]]:
    n = len(points.training)
    inputs = torch.from_numpy(np.concatenate([points.training, points.test])).float()
    labels = torch.from_numpy(np.concatenate([points.training_labels, points.test_labels]))
    return Samples(inputs, labels), np.arange(n), {"test": np.arange(n, len(labels))}


def _described(drawn: dict[str, Points]) -> dict[str, Any]:
    import hashlib

    sha = hashlib.sha256()
    for points in drawn.values():
        for part in points:
            sha.update(np.ascontiguousarray(part).tobytes())
    sizes = {shape: [len(p.training), len(p.test)] for shape, p in drawn.items()}
    return {"digest": sha.hexdigest(), "splits": sizes}


def _notes(config: SpiralsConfig) -> list[str]:
    return [
        "Published values are single runs.",
        "The published classical counterpart starts from weights of size 0.001, which cripples it; "
        "the same network with usual first weights, and with a periodic bend, stands beside it.",
        f"{config.seeds} seeds of first weights and order, one draw of points.",
    ]
