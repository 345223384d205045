"""Photonic layers and read-outs as modules: kets in, kets or numbers out.

A stack of layers is a sequence, so `stack[:k]` is a network that has lost its last layers, which is
what quantum-to-classical and quantum-to-quantum transfer start from (arXiv 1912.08278).
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from qgraft.errors import CircuitError
from qgraft.simulate.fock import (
    beam_splitter,
    cubic_phase,
    displacement,
    kerr,
    on_mode,
    pass_photons,
    rotation,
    squeezing,
)

ACTIVE_BOUND = 1.0  # of squeezing, displacement, Kerr and cubic parameters, as published
FLOOR = 1e-7  # added to a probability before its logarithm, as published


class PhotonicLayers(nn.Module):
    """Layers of one kind, with their parameters in `weights` `(depth, n_parameters)`.

    Args:
        depth: number of layers.
        passive_spread: standard deviation of the initial angles.
        active_spread: standard deviation of the initial parameters that change photon numbers.
    """

    passive: tuple[int, ...]  # places of the angles among the parameters
    n_parameters: int

    def __init__(
        self, depth: int, *, passive_spread: float = 0.001, active_spread: float = 0.001
    ) -> None:
        super().__init__()
        if depth < 0:
            raise CircuitError(f"depth must be 0 or more, got {depth}")
        spreads = torch.full((self.n_parameters,), active_spread, dtype=torch.float64)
        spreads[list(self.passive)] = passive_spread
        weights = torch.randn(depth, self.n_parameters, dtype=torch.float64)
        self.weights = nn.Parameter(weights * spreads)

    def __len__(self) -> int:
        return len(self.weights)

    def __getitem__(self, part: slice) -> Any:
        """Return a copy with some of the layers."""
        if not isinstance(part, slice):
            raise CircuitError(f"take a slice of the layers, such as [:15], got {part!r}")
        layers = copy.deepcopy(self)
        layers.weights = nn.Parameter(self.weights.detach()[part].clone())
        return layers

    def extra_repr(self) -> str:
        """Describe the size in the module's printout."""
        return f"depth={len(self)}"


class OneModeLayers(PhotonicLayers):
    """R, S, R, D, R and cubic phase V, six real parameters a layer (arXiv 1912.08278, example 5).

    Parameters in order: squeezing, displacement, three angles in order of application, cubic phase.
    With `squeezes=False` the squeezing gate is left out, as the published code does by mistake;
    `exact` is that of `cubic_phase`.
    """

    passive = (2, 3, 4)
    n_parameters = 6

    def __init__(
        self, depth: int, *, squeezes: bool = True, exact: bool = True, **spreads: float
    ) -> None:
        super().__init__(depth, **spreads)
        self.squeezes, self.exact = squeezes, exact

    def forward(self, kets: Tensor) -> Tensor:
        """Map kets `(batch, cutoff)` to kets."""
        cutoff = kets.shape[-1]
        active = self.weights.clamp(-ACTIVE_BOUND, ACTIVE_BOUND).unbind(-1)
        turns = rotation(self.weights[:, 2:5], cutoff)
        squeeze = squeezing(active[0], torch.zeros_like(active[0]), cutoff)
        displace = displacement(torch.complex(active[1], torch.zeros_like(active[1])), cutoff)
        cubic = cubic_phase(active[5], cutoff, exact=self.exact)
        for layer in range(len(self)):
            kets = kets * turns[layer, 0]
            kets = kets @ squeeze[layer].mT if self.squeezes else kets
            kets = (kets * turns[layer, 1]) @ displace[layer].mT
            kets = (kets * turns[layer, 2]) @ cubic[layer].mT
        return kets


class TwoModeLayers(PhotonicLayers):
    """BS, R, S S, BS, R, D D, K K: sixteen parameters a layer (arXiv 1806.06871, IV.D).

    Parameters in order: theta and phi of the first beam splitter, an angle of mode 0, magnitude and
    phase of the squeezing of modes 0 and 1, the second beam splitter, an angle, magnitude and phase
    of the displacement of modes 0 and 1, Kerr of modes 0 and 1.
    """

    passive = (0, 1, 2, 4, 6, 7, 8, 9, 11, 13)
    n_parameters = 16

    def forward(self, kets: Tensor) -> Tensor:
        """Map kets `(batch, cutoff, cutoff)` to kets."""
        cutoff, weights = kets.shape[-1], self.weights
        active = weights.clamp(-ACTIVE_BOUND, ACTIVE_BOUND)
        turns = rotation(weights[:, [2, 9]], cutoff)
        squeeze = squeezing(active[:, [3, 5]], weights[:, [4, 6]], cutoff)
        reach, angle = active[:, [10, 12]], weights[:, [11, 13]]
        displace = displacement(torch.complex(reach * angle.cos(), reach * angle.sin()), cutoff)
        bend = kerr(active[:, 14:16], cutoff)
        splitters = beam_splitter(weights[:, [0, 7]], weights[:, [1, 8]], cutoff)
        # Taken apart at once: a gradient through an index is as large as all gates together.
        layers = zip(
            *(g.unbind() for g in (splitters, turns, squeeze, displace, bend)), strict=True
        )
        for split, turn, squash, shift, kick in layers:
            kets = on_mode(pass_photons(kets, split[0]), turn[0], 0)
            kets = squash[0] @ kets @ squash[1].mT
            kets = on_mode(pass_photons(kets, split[1]), turn[1], 0)
            kets = shift[0] @ kets @ shift[1].mT
            kets = on_mode(on_mode(kets, kick[0], 0), kick[1], 1)
        return kets


class FockAmplitudes(nn.Module):
    """Absolute amplitudes of the states with fewer than `n` photons in each mode, renormalised."""

    def __init__(self, n: int) -> None:
        super().__init__()
        self.n = n

    def forward(self, kets: Tensor) -> Tensor:
        """Map kets `(batch, cutoff, cutoff)` to features `(batch, n * n)`."""
        return nn.functional.normalize(kets[..., : self.n, : self.n].flatten(-2).abs(), dim=-1)


class VacuumLogits(nn.Module):
    """Logarithms of 1 - p0 and p0, p0 the probability of no photon: class 1 where p0 > 1/2."""

    def forward(self, kets: Tensor) -> Tensor:
        """Map kets `(batch, cutoff)` to logits `(batch, 2)`."""
        p0 = kets[..., 0].abs().square()
        return (torch.stack([1 - p0, p0], -1).clamp_min(0) + FLOOR).log()
