"""Noisy circuits too wide for a density matrix: the mean over random pure states.

Each trajectory draws, after every gate, which Kraus operator acts (Dalibard, Castin and Molmer
1992). Their mean is unbiased; the error falls with the square root of their number.
"""

from __future__ import annotations

import torch
from torch import Tensor

from qgraft.circuits.circuit import Circuit, Op
from qgraft.errors import CircuitError
from qgraft.simulate.noise import Channel, NoiseModel
from qgraft.simulate.plan import gate_matrices
from qgraft.simulate.program import evaluator
from qgraft.simulate.statevector import check_numbers


def trajectory_probabilities(
    circuit: Circuit,
    angles: Tensor,
    weights: Tensor,
    noise: NoiseModel,
    generator: torch.Generator,
    trajectories: int = 256,
) -> Tensor:
    """Return the mean outcome probabilities `(batch, 2**k)` over random trajectories.

    The gradient is unbiased as long as every channel is a mixture of Pauli gates.

    Raises:
        CircuitError: the numbers do not fit, or gradients are asked for under amplitude damping.
    """
    check_numbers(circuit, angles, weights)
    if not circuit.probabilities:
        raise CircuitError("the circuit reads no probabilities out; name its qubits")
    if trajectories < 1:
        raise CircuitError(f"trajectories must be 1 or more, got {trajectories}")
    damped = any(
        channel.pauli_weights() is None for op in circuit.ops for channel in noise.channels(op.gate)
    )
    learns = torch.is_grad_enabled() and (angles.requires_grad or weights.requires_grad)
    if damped and learns:
        raise CircuitError(
            "trajectories under amplitude damping have no unbiased gradient; use the density "
            "matrix, parameter shifts or SPSA"
        )
    psi = _start(circuit, angles, trajectories)
    for op in circuit.ops:
        psi = _apply(op, psi, _matrix(op, circuit, angles, weights))
        for qubit in op.qubits:
            for channel in noise.channels(op.gate):
                psi = _disturb(psi, qubit, channel, generator)
    return _read(circuit, psi, noise)


def _start(circuit: Circuit, angles: Tensor, trajectories: int) -> Tensor:
    """Return the first states, complex `(batch, trajectories, 2**n)`."""
    n, batch = circuit.n_qubits, len(angles)
    if circuit.amplitudes:
        rows = torch.nn.functional.normalize(angles, dim=1, eps=torch.finfo(angles.dtype).tiny)
    else:
        rows = angles.new_zeros(batch, 2**n)
        rows[:, 0] = 1.0
    table = rows[:, None].expand(batch, trajectories, 2**n)
    return torch.complex(table, torch.zeros_like(table))


def _matrix(op: Op, circuit: Circuit, angles: Tensor, weights: Tensor) -> Tensor:
    """Return the gate's matrix `(size, size)`, or one per sample."""

    def real(array: object) -> Tensor:
        return torch.as_tensor(array, dtype=angles.dtype, device=angles.device)

    evaluate = evaluator(gate_matrices([op], circuit, False), real)
    return torch.view_as_complex(evaluate(angles, weights)).squeeze(-3)


def _apply(op: Op, psi: Tensor, matrix: Tensor) -> Tensor:
    n = psi.shape[2].bit_length() - 1
    shape = psi.shape[:1] + (2,) * n + psi.shape[1:2]
    table = psi.movedim(1, 2).reshape(shape)
    qubits = [1 + q for q in op.qubits]
    front = table.movedim(qubits, list(range(1, 1 + len(qubits))))
    moved = matrix @ front.flatten(1).unflatten(1, (matrix.shape[-1], -1))
    table = moved.reshape(front.shape).movedim(list(range(1, 1 + len(qubits))), qubits)
    return table.flatten(1, n).movedim(1, 2)


def _disturb(psi: Tensor, qubit: int, channel: Channel, generator: torch.Generator) -> Tensor:
    """Draw what one channel does to a qubit in every trajectory."""
    table = psi.reshape(*psi.shape[:2], 2**qubit, 2, -1)
    draw = torch.rand(psi.shape[:2], generator=generator).to(table.real)[:, :, None, None]
    pauli = channel.pauli_weights()
    if pauli is None:
        return _damp(table, draw, channel.strength).reshape(psi.shape)
    _, x, y, z = pauli
    flipped = (draw < x + y)[..., None]
    turned = (draw >= x) & (draw < x + y + z)
    zero, one = table.unbind(3)
    signed = torch.stack([zero, torch.where(turned, -one, one)], dim=3)
    # Y is X after Z up to a phase, which no outcome shows
    return torch.where(flipped, signed.flip(3), signed).reshape(psi.shape)


def _damp(table: Tensor, draw: Tensor, gamma: float) -> Tensor:
    """Let the qubit fall from 1 to 0 with the probability that amplitude damping gives it."""
    zero, one = table.unbind(3)
    excited = one.abs().square().sum((2, 3), keepdim=True)
    falls = draw < gamma * excited
    tiny = torch.finfo(draw.dtype).tiny
    after_fall = torch.stack([one / excited.clamp_min(tiny).sqrt(), torch.zeros_like(one)], dim=3)
    norm = (1 - gamma * excited).clamp_min(tiny).sqrt()
    after_stay = torch.stack([zero / norm, one * (1 - gamma) ** 0.5 / norm], dim=3)
    return torch.where(falls[..., None], after_fall, after_stay)


def _read(circuit: Circuit, psi: Tensor, noise: NoiseModel) -> Tensor:
    n, kept = circuit.n_qubits, circuit.probabilities or ()
    table = psi.abs().square().mean(1).unflatten(1, (2,) * n)
    axes = [1 + q for q in kept] + [1 + q for q in range(n) if q not in kept]
    outcomes = (
        table.permute(0, *axes).flatten(1 + len(kept)).sum(-1)
        if n > len(kept)
        else (table.permute(0, *axes))
    )
    return misread(outcomes.flatten(1), noise.confusion())


def misread(outcomes: Tensor, confusion: object) -> Tensor:
    """Apply a matrix `(2, 2)` to every qubit of probabilities `(batch, 2**k)`."""
    matrix = torch.as_tensor(confusion, dtype=outcomes.dtype, device=outcomes.device)
    for _ in range(outcomes.shape[1].bit_length() - 1):
        # the leading qubit goes last, so after all qubits the order is the old one
        outcomes = (outcomes.unflatten(1, (2, -1)).transpose(1, 2) @ matrix.mT).flatten(1)
    return outcomes
