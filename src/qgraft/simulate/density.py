"""Noisy circuits exactly: the density matrix in the basis of Pauli words, in torch.

There a state is `4**n` real numbers, CNOT and every Clifford gate a permutation with signs, and
depolarising, phase damping and bit flips are mere factors. What does not depend on the sample
is run backwards from the read-out (the Heisenberg picture), once for the whole batch; what comes
first acts on single qubits. A batch then costs one matrix product.

Batched, differentiable, on any torch device, in float32 or float64.
"""

from __future__ import annotations

from functools import reduce

import torch
from torch import Tensor

from qgraft.circuits.circuit import Circuit
from qgraft.errors import CircuitError
from qgraft.simulate.noise import NoiseModel
from qgraft.simulate.noisy_plan import (
    Apply,
    Layers,
    NoisyProgram,
    Permute,
    Read,
    Step,
    noisy_program,
)
from qgraft.simulate.statevector import check_numbers, exactly

MAX_QUBITS = 9  # 4**9 numbers per row


@torch.compiler.disable()
def noisy_expvals(circuit: Circuit, angles: Tensor, weights: Tensor, noise: NoiseModel) -> Tensor:
    """Return the expectation values `(batch, n_observables)` of a noisy circuit.

    Arguments are those of `qgraft.simulate.statevector.expvals`.

    Raises:
        CircuitError: the numbers do not fit, or the circuit is too wide.
    """
    if not circuit.observables:
        raise CircuitError("the circuit has no observables; give some or ask for probabilities")
    return _read(circuit, angles, weights, noise, "expvals")


@torch.compiler.disable()
def noisy_probabilities(
    circuit: Circuit, angles: Tensor, weights: Tensor, noise: NoiseModel
) -> Tensor:
    """Return the outcome probabilities `(batch, 2**k)` of a noisy circuit, misread ones included.

    Arguments and errors are those of `noisy_expvals`.
    """
    if not circuit.probabilities:
        raise CircuitError("the circuit reads no probabilities out; name its qubits")
    return _read(circuit, angles, weights, noise, "probabilities")


def _read(
    circuit: Circuit, angles: Tensor, weights: Tensor, noise: NoiseModel, read: Read
) -> Tensor:
    check_numbers(circuit, angles, weights)
    if circuit.n_qubits > MAX_QUBITS:
        raise CircuitError(
            f"a density matrix of {circuit.n_qubits} qubits is too large (at most {MAX_QUBITS}); "
            "use trajectories"
        )
    with exactly(angles):
        code = noisy_program(circuit, noise, read, angles.dtype, angles.device)
        return _run(code, angles, weights)


def _run(code: NoisyProgram, angles: Tensor, weights: Tensor) -> Tensor:
    tables = {key: table(angles, weights) for key, table in code.tables.items()}
    layers = _layer_blocks(code, tables)
    state = _start(code, angles, tables)
    backwards = len(code.columns) <= len(angles)
    ahead = code.steps[: code.n_forward] if backwards else code.steps
    for step in ahead:
        state = _apply(step, state, layers, tables, False)
    if not backwards:
        values = state[:, code.columns]
    else:
        words = torch.nn.functional.one_hot(code.columns, state.shape[1]).to(state.dtype)
        for step in reversed(code.steps[code.n_forward :]):
            words = _apply(step, words, layers, tables, True)
        values = state @ words.T
    values = values.expand(len(angles), -1)
    return (
        code.offset + values
        if code.mixing is None
        else torch.addmm(code.offset, values, code.mixing)
    )


def _start(code: NoisyProgram, angles: Tensor, tables: dict[tuple[int, bool], Tensor]) -> Tensor:
    """Return the state `(batch or 1, 4**n)` after the gates that come before any entangler."""
    if code.amplitudes:
        return _pure(angles)
    bloch = code.ground[None, :, :, None]
    for link in code.prefix:
        matrices = tables[4, link.per_sample][..., link.numbers, :, :]
        if link.qubits is None:
            bloch = matrices @ bloch
            continue
        turned = matrices @ bloch[:, link.qubits]
        batch = max(len(turned), len(bloch))
        whole = bloch.expand(batch, -1, -1, -1)
        bloch = whole.index_copy(1, link.qubits, turned.expand(batch, -1, -1, -1))
    return reduce(_outer, bloch.squeeze(-1).unbind(1))


def _outer(first: Tensor, second: Tensor) -> Tensor:
    return (first.unsqueeze(-1) * second.unsqueeze(-2)).flatten(-2)


def _pure(amplitudes: Tensor) -> Tensor:
    """Return the Pauli vector `(batch, 4**n)` of states with real amplitudes `(batch, 2**n)`."""
    tiny = torch.finfo(amplitudes.dtype).tiny
    psi = amplitudes / torch.linalg.vector_norm(amplitudes, dim=1, keepdim=True).clamp_min(tiny)
    n = psi.shape[1].bit_length() - 1
    # tr(P rho) for P = I, X, iY, Z as a map of (row, column); two iY are one factor -1
    basis = psi.new_tensor([[1.0, 0, 0, 1], [0, 1, 1, 0], [0, 1, -1, 0], [1, 0, 0, -1]])
    rho = _outer(psi, psi).unflatten(1, (2,) * (2 * n))
    rho = rho.permute(0, *(axis for q in range(n) for axis in (1 + q, 1 + n + q))).flatten(1)
    count = torch.zeros(1, dtype=torch.int64, device=psi.device)
    for _ in range(n):
        rho = (rho.unflatten(1, (4, -1)).transpose(1, 2) @ basis.T).flatten(1)
        count = (count[:, None] + torch.tensor([0, 0, 1, 0], device=psi.device)).flatten()
    sign = psi.new_tensor([1.0, 0.0, -1.0, 0.0])[count % 4]
    return rho * sign


def _layer_blocks(
    code: NoisyProgram, tables: dict[tuple[int, bool], Tensor]
) -> list[tuple[Tensor, ...]]:
    """Return, for every block of neighbouring qubits, its matrix in each layer."""
    if code.slots is None:
        return []
    chain = tables[4, False][code.slots]  # (chain, n_layers, n_qubits, 4, 4)
    single = reduce(lambda before, gate: gate @ before, chain.unbind(0))
    pairs = single.split(2, dim=1)
    return [
        (_kronecker(*pair.unbind(1)) if pair.shape[1] == 2 else pair[:, 0]).unbind(0)
        for pair in pairs
    ]


def _kronecker(first: Tensor, second: Tensor) -> Tensor:
    table = first[..., :, None, :, None] * second[..., None, :, None, :]
    return table.flatten(-4, -3).flatten(-2)


def _apply(
    step: Step,
    state: Tensor,
    layers: list[tuple[Tensor, ...]],
    tables: dict[tuple[int, bool], Tensor],
    backwards: bool,
) -> Tensor:
    """Apply one step to states, or its transpose to read-outs `(rows, 4**n)`."""
    if isinstance(step, Permute):
        if backwards:
            return (state * step.factor)[:, step.inverse]
        return state[:, step.index] * step.factor
    if isinstance(step, Layers):
        for block in layers:
            # the block's axis goes last, so after all blocks the order is the old one
            matrix = block[step.number] if backwards else block[step.number].mT
            state = (state.unflatten(1, (matrix.shape[0], -1)).transpose(1, 2) @ matrix).flatten(1)
        return state
    matrix = tables[step.size, step.per_sample][..., step.number, :, :]
    return _on_qubits(state, matrix.mT if backwards else matrix, step)


def _on_qubits(state: Tensor, matrix: Tensor, step: Apply) -> Tensor:
    n = (state.shape[1].bit_length() - 1) // 2
    axes = [1 + q for q in step.qubits] + [1 + q for q in range(n) if q not in step.qubits]
    table = state.unflatten(1, (4,) * n).permute(0, *axes).flatten(1)
    moved = matrix @ table.unflatten(1, (step.size, -1))
    back = [1 + axes.index(1 + q) for q in range(n)]
    return moved.flatten(1).unflatten(1, (4,) * n).permute(0, *back).flatten(1)
