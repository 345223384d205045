"""The parts of a two-stage study that can be worked on at the same time.

First the initialisations of all networks (`classical.network_units`), then for every hybrid its
heads, its decision head, and each kind of control. Heads read features, which are made once where
the study runs; of the network a unit needs the layers only, not the weights.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from qgraft.config import TrainingConfig
from qgraft.data.splits import Splits
from qgraft.studies.classical import bare_network
from qgraft.studies.control_heads import (
    CONTROLS,
    QUANTUM,
    Bench,
    Kind,
    control_file,
    predicted_classes,
    seeds_of,
)
from qgraft.studies.decisions import DECISION, train_decision
from qgraft.studies.hybrid import Hybrid, head_file, parts_of, train_grafts
from qgraft.studies.run import Run, Unit
from qgraft.training.loop import Samples


class Place(NamedTuple):
    """One hybrid of a study.

    Attributes:
        name: its network in the tables.
        trunk: the kind of network.
        channels: of an image.
        n_classes: number of classes.
        hybrid: the graft.
    """

    name: str
    trunk: str
    channels: int
    n_classes: int
    hybrid: Hybrid


def head_units(
    place: Place,
    samples: Samples,
    splits: Splits,
    config: TrainingConfig,
    *,
    decides: bool,
    compared: bool,
) -> Iterator[Unit]:
    """Give all trainings of one hybrid.

    Args:
        place: which hybrid.
        samples: what its heads read.
        splits: who may see which sample.
        config: training settings.
        decides: whether it has a decision head.
        compared: whether it has controls.
    """
    shared = samples.inputs.numpy(), samples.labels.numpy(), splits, config
    model, variant = place.name, place.hybrid.variant

    def file(part: str) -> str:
        return str(head_file(Path(), model, variant, part))

    parts = tuple(file(part.name) for part in parts_of(splits))
    yield Unit(_train_heads, shared, (place,), parts)
    if decides:
        yield Unit(_train_decision, shared, (place,), (file(DECISION),))
    for kind in (QUANTUM, *CONTROLS) if compared else ():
        if seeds_of(kind, config):
            control = str(control_file(Path(), model, variant, kind))
            yield Unit(_train_control, shared, (place, kind), (control,))


def _network(place: Place) -> nn.Sequential:
    with torch.random.fork_rng():  # what its weights are does not matter
        return bare_network(place.trunk, place.channels, place.n_classes)


def _samples(inputs: np.ndarray, labels: np.ndarray) -> Samples:
    return Samples(torch.from_numpy(inputs), torch.from_numpy(labels))


def _train_heads(
    run: Run,
    inputs: np.ndarray,
    labels: np.ndarray,
    splits: Splits,
    config: TrainingConfig,
    place: Place,
) -> None:
    samples = _samples(inputs, labels)
    train_grafts(run, _network(place), place.name, place.hybrid, samples, splits, config)


def _train_decision(
    run: Run,
    inputs: np.ndarray,
    labels: np.ndarray,
    splits: Splits,
    config: TrainingConfig,
    place: Place,
) -> None:
    samples = _samples(inputs, labels)
    train_decision(run, _network(place), place.name, place.hybrid, samples, splits, config)


def _train_control(
    run: Run,
    inputs: np.ndarray,
    labels: np.ndarray,
    splits: Splits,
    config: TrainingConfig,
    place: Place,
    kind: Kind,
) -> None:
    samples, network, n_classes = _samples(inputs, labels), _network(place), place.n_classes
    bench = Bench(place.name, network, place.hybrid, samples, splits, n_classes, config)
    with run.timed(f"{place.name}/{place.hybrid.variant}/{kind.name}"):
        predicted_classes(run, bench, kind, seeds_of(kind, config))
