"""What the photonic studies learn on: states, pictures, source networks and the heads they get.

The tetromino network is trained here, once in a run; layer A of example 5 comes with its published
numbers (arXiv 1912.08278, examples 4 and 5; arXiv 1806.06871, IV.D).
"""

from __future__ import annotations

from functools import partial
from math import pi
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from qgraft.config import PhotonicConfig
from qgraft.errors import WeightsError
from qgraft.heads.photonic import OneModeLayers, TwoModeLayers, VacuumLogits
from qgraft.seeds import torch_stream
from qgraft.simulate.fock import coherent, lost_norm, rotation, squeezing, vacuum
from qgraft.studies.run import Run
from qgraft.training.checkpoint import load_tensors, save_tensors
from qgraft.training.kept import load_weights
from qgraft.training.minibatch import StepRecipe, descent

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


def target_layers(*, exact: bool) -> nn.Sequential:
    """Return the three new layers of example 5 and their read-out."""
    return nn.Sequential(OneModeLayers(TARGET_DEPTH, exact=exact), VacuumLogits())
