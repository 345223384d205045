"""Photonic circuits on one or two modes as states in a cut-off Fock space, in plain torch.

A ket is complex, `(..., cutoff)` for one mode and `(..., cutoff, cutoff)` for two; parameters are
real tensors of any batch shape and everything is differentiable in them. Matrices are the exact
ones, cut off: a state that would leave the space loses norm instead of coming back wrong, and
`lost_norm` tells how much. Units: hbar = 2, so x = a + a^dagger. Conventions are those of
Killoran et al. (arXiv 1806.06871); recurrences of Miatto and Quesada (arXiv 2004.11002).
"""

from __future__ import annotations

from functools import lru_cache
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from qgraft.errors import CircuitError

MAX_CUTOFF = 60
TAIL, POINTS = 6.0, 512  # of the grid on which a function of x is integrated
Mode = Literal[0, 1]


def vacuum(modes: Literal[1, 2], cutoff: int, dtype: torch.dtype = torch.complex128) -> Tensor:
    """Return the ket without photons, `(cutoff,)` or `(cutoff, cutoff)`."""
    _check_cutoff(cutoff)
    ket = torch.zeros((cutoff,) * modes, dtype=dtype)
    ket[(0,) * modes] = 1
    return ket


def coherent(alpha: Tensor, cutoff: int) -> Tensor:
    """Return coherent states `(..., cutoff)` of complex amplitudes `(...)`."""
    _check_cutoff(cutoff)
    entries = [torch.exp(-alpha.abs().square() / 2).to(_complex(alpha))]
    for n in range(1, cutoff):
        entries.append(entries[-1] * alpha / n**0.5)
    return torch.stack(entries, -1)


def rotation(phi: Tensor, cutoff: int) -> Tensor:
    """Return the diagonal `(..., cutoff)` of R = exp(i phi n)."""
    return _phases(phi[..., None] * _numbers(phi, cutoff))


def kerr(kappa: Tensor, cutoff: int) -> Tensor:
    """Return the diagonal `(..., cutoff)` of K = exp(i kappa n^2)."""
    return _phases(kappa[..., None] * _numbers(kappa, cutoff).square())


def displacement(alpha: Tensor, cutoff: int) -> Tensor:
    """Return D = exp(alpha a^dagger - alpha* a), `(..., cutoff, cutoff)`, for complex alpha."""
    roots = _numbers(alpha, cutoff).sqrt()
    back = alpha.conj()[..., None]
    columns = [coherent(alpha, cutoff)]
    for n in range(1, cutoff):
        columns.append((_raised(columns[-1], roots) - back * columns[-1]) / n**0.5)
    return torch.stack(columns, -1)


def squeezing(r: Tensor, phi: Tensor, cutoff: int) -> Tensor:
    """Return S = exp(r/2 (e^{-i phi} a^2 - e^{i phi} a^dagger^2)), `(..., cutoff, cutoff)`."""
    _check_cutoff(cutoff)
    r, phi = torch.broadcast_tensors(r, phi)
    roots = _numbers(r, cutoff).sqrt()
    sech, turn = 1 / torch.cosh(r), torch.tanh(r) * _phases(phi)
    entries = [sech.sqrt().to(turn.dtype), torch.zeros_like(turn)]
    for m in range(2, cutoff):
        entries.append(-turn * entries[-2] * ((m - 1) / m) ** 0.5)
    columns = [torch.stack(entries[:cutoff], -1)]
    for n in range(1, cutoff):
        column = sech[..., None] * _raised(columns[-1], roots)
        if n > 1:
            column = column + (n - 1) ** 0.5 * turn.conj()[..., None] * columns[-2]
        columns.append(column / n**0.5)
    return torch.stack(columns, -1)


def cubic_phase(gamma: Tensor, cutoff: int, *, exact: bool = True) -> Tensor:
    """Return V = exp(i gamma x^3 / 6), `(..., cutoff, cutoff)`, hbar = 2.

    Integrated over x on a grid, where the gate is a phase: exact to 1e-8 for |gamma| <= 1. With
    `exact=False` x is cut off first, as in Strawberry Fields: the matrix stays unitary, and what
    the exact gate would throw out of the space comes back wrong.
    """
    x, waves = _waves(cutoff) if exact else _cut_waves(cutoff)
    waves = waves.to(gamma)
    angles = gamma[..., None] * (x.to(gamma) ** 3 / 6)
    cosines, sines = torch.cos(angles)[..., None], torch.sin(angles)[..., None]
    return torch.complex(waves.mT @ (cosines * waves), waves.mT @ (sines * waves))


def on_mode(ket: Tensor, gate: Tensor, mode: Mode = 0) -> Tensor:
    """Apply a matrix `(..., cutoff, cutoff)`, or a diagonal `(cutoff,)`, to one mode of two."""
    if gate.ndim == 1:
        return ket * (gate[:, None] if mode == 0 else gate)
    return gate @ ket if mode == 0 else ket @ gate.mT


def beam_splitter(theta: Tensor, phi: Tensor, cutoff: int) -> Tensor:
    """Return BS = exp(theta (e^{i phi} a b^dagger - e^{-i phi} a^dagger b)) for `pass_photons`.

    Photons are only passed on, so the gate falls into blocks of equal photon number, whose
    eigenvectors do not depend on the parameters: `(..., 2 cutoff - 1, cutoff, cutoff)`, by total
    number and photons in the first mode after and before.
    """
    values, even, odd, _ = _blocks(cutoff)
    angles = theta[..., None, None] * values.to(theta)
    waves = torch.cat([torch.cos(angles), torch.sin(angles)], -1)
    # Not as `@`, which would copy the coefficients for every gate.
    real = torch.einsum("...tk,tkm->...tm", waves, torch.cat([even, odd], 1).to(theta))
    turn = rotation(phi, cutoff)[..., None, :, None]
    return turn.conj() * real.unflatten(-1, (cutoff, cutoff)) * turn.mT


def pass_photons(ket: Tensor, gate: Tensor) -> Tensor:
    """Apply one beam splitter to kets `(..., cutoff, cutoff)`."""
    cutoff = ket.shape[-1]
    _, _, _, (into, back) = _blocks(cutoff)
    blocks = ket.flatten(-2)[..., into]
    return torch.einsum("tmn,...tn->...tm", gate, blocks).flatten(-2)[..., back]


def lost_norm(ket: Tensor, modes: Literal[1, 2]) -> Tensor:
    """Return how much of the squared norm has left the space, `(...)`."""
    return 1 - ket.abs().square().flatten(-modes).sum(-1)


def _check_cutoff(cutoff: int) -> None:
    if not isinstance(cutoff, int) or not 2 <= cutoff <= MAX_CUTOFF:
        raise CircuitError(f"cutoff must be from 2 to {MAX_CUTOFF} photon numbers, got {cutoff!r}")


def _complex(values: Tensor) -> torch.dtype:
    return torch.promote_types(values.dtype, torch.complex64)


def _numbers(like: Tensor, cutoff: int) -> Tensor:
    """Return the photon numbers `(cutoff,)` as real numbers of the precision of `like`."""
    _check_cutoff(cutoff)
    return torch.arange(cutoff, dtype=like.real.dtype)


def _phases(angles: Tensor) -> Tensor:
    return torch.complex(torch.cos(angles), torch.sin(angles))


def _raised(column: Tensor, roots: Tensor) -> Tensor:
    """Return a^dagger applied to `(..., cutoff)`."""
    return torch.cat([torch.zeros_like(column[..., :1]), roots[1:] * column[..., :-1]], -1)


@lru_cache(maxsize=8)
def _waves(cutoff: int) -> tuple[Tensor, Tensor]:
    """Return grid points x `(n,)` and number states times the root of the step, `(n, cutoff)`."""
    _check_cutoff(cutoff)
    reach = 2 * cutoff**0.5 + TAIL  # past the turning point of the largest number state
    x, step = np.linspace(-reach, reach, POINTS, retstep=True)
    waves = [np.exp(-(x**2) / 4) / (2 * np.pi) ** 0.25]
    waves.append(x * waves[0])
    for n in range(2, cutoff):
        waves.append((x * waves[-1] - (n - 1) ** 0.5 * waves[-2]) / n**0.5)
    grid = np.stack(waves, axis=1) * step**0.5
    return torch.from_numpy(x), torch.from_numpy(grid)


@lru_cache(maxsize=8)
def _cut_waves(cutoff: int) -> tuple[Tensor, Tensor]:
    """Return the eigenvalues `(cutoff,)` of the x that is cut off, and its eigenvectors as rows."""
    _check_cutoff(cutoff)
    lower = np.diag(np.arange(1, cutoff) ** 0.5, 1)
    values, vectors = np.linalg.eigh(lower + lower.T)
    return torch.from_numpy(values), torch.from_numpy(vectors.T.copy())


@lru_cache(maxsize=8)
def _blocks(cutoff: int) -> tuple[Tensor, Tensor, Tensor, tuple[Tensor, Tensor]]:
    """Return what the blocks of a beam splitter are made of, by total photon number.

    Eigenvalues `(n, n)` of i (a b^dagger - a^dagger b), n = 2 cutoff - 1; the coefficients
    `(n, n, cutoff**2)` of the cosines and sines of theta times them in the entries of a block; and
    the indices that map a flat ket to blocks `(n, cutoff)` and flat blocks to a ket.
    """
    _check_cutoff(cutoff)
    n = 2 * cutoff - 1
    values, vectors = np.zeros((n, n)), np.zeros((n, cutoff, n), complex)
    for total in range(n):
        first = np.arange(total + 1)  # photons in the first mode; the others are in the second
        passed = np.sqrt(first[1:] * (total - first[1:] + 1))
        generator = np.diag(passed, 1) - np.diag(passed, -1)
        values[total, : total + 1], vector = np.linalg.eigh(1j * generator)
        inside = (first < cutoff) & (total - first < cutoff)
        vectors[total, first[inside], : total + 1] = vector[inside]
    products = np.einsum("tma,tna->tamn", vectors, vectors.conj()).reshape(n, n, -1)
    first = np.arange(cutoff)
    second = np.clip(np.arange(n)[:, None] - first, 0, cutoff - 1)  # where outside, the gate is 0
    into = first * cutoff + second
    back = (first[:, None] + first) * cutoff + first[:, None]
    cosines, sines = (torch.from_numpy(part.copy()) for part in (products.real, products.imag))
    indices = torch.from_numpy(into), torch.from_numpy(back)
    return torch.from_numpy(values), cosines, sines, indices
