"""Exact simulation in torch: batched, differentiable, on any torch device, float32 or float64.

What does not depend on the sample is computed once per call: up to six qubits all gates between
two embeddings become one `2**n x 2**n` matrix and the batch meets it in a single product.

Works under `torch.func.vmap` and `grad` and in `torch.export`. `torch.compile` leaves a circuit as
it is and compiles what is around it; autocast does not reach inside.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import reduce, wraps

import torch
from torch import Tensor

from qgraft.circuits.circuit import Circuit
from qgraft.errors import CircuitError
from qgraft.simulate.plan import Apply, Layer, Step
from qgraft.simulate.program import Permute, Program, program

LAYERED = (2, False)  # the family of gates that layers are made of
Matrices = dict[tuple[int, bool], tuple[Tensor, ...]]
Simulate = Callable[[Circuit, Tensor, Tensor], Tensor]


def exactly(like: Tensor) -> AbstractContextManager[object]:
    """Return a context in which autocast does not round what is computed beside `like`."""
    device = like.device.type
    if torch.is_autocast_enabled(device):
        return torch.autocast(device, enabled=False)
    return nullcontext()


def _undisturbed(simulate: Simulate) -> Simulate:
    """Keep `torch.compile` and autocast out of a simulation."""

    @torch.compiler.disable()
    @wraps(simulate)
    def call(circuit: Circuit, angles: Tensor, weights: Tensor) -> Tensor:
        with exactly(angles):
            return simulate(circuit, angles, weights)

    return call


@_undisturbed
def expvals(circuit: Circuit, angles: Tensor, weights: Tensor) -> Tensor:
    """Return the expectation values `(batch, n_observables)` of the circuit's Pauli words.

    Args:
        circuit: what to simulate.
        angles: `(batch, n_angles)`, or the amplitudes `(batch, 2**n_qubits)`.
        weights: `(n_weights,)`, of the same dtype (float32 or float64) and device.

    Raises:
        CircuitError: shapes or dtypes do not fit, or the circuit has no observables.
    """
    if not circuit.observables:
        raise CircuitError("the circuit has no observables; give some or ask for probabilities")
    check_numbers(circuit, angles, weights)
    code = program(circuit, "expvals", angles.dtype, angles.device)
    psi = _evolve(code, angles, weights)
    if code.words:
        return torch.stack([_expval(psi, word) for word in code.words], dim=-1)
    squares = _squares(psi)
    low = code.signs[-1].repeat_interleave(2, dim=0) if psi.is_complex() else code.signs[-1]
    if len(code.signs) == 1:
        return squares @ low
    high = code.signs[0]
    halves = squares.unflatten(1, (high.shape[0], low.shape[0])) @ low
    return (halves * high).sum(1)


@_undisturbed
def probabilities(circuit: Circuit, angles: Tensor, weights: Tensor) -> Tensor:
    """Return the joint outcome probabilities `(batch, 2**k)` of the circuit's k read-out qubits.

    Arguments and errors are those of `expvals`.
    """
    if not circuit.probabilities:
        raise CircuitError("the circuit reads no probabilities out; name its qubits")
    check_numbers(circuit, angles, weights)
    psi = _evolve(program(circuit, "probabilities", angles.dtype, angles.device), angles, weights)
    n, kept = circuit.n_qubits, circuit.probabilities
    parts = (2,) if psi.is_complex() else (1,)
    table = _squares(psi).unflatten(1, (2,) * n + parts)
    axes = [1 + q for q in kept] + [1 + q for q in range(n + 1) if q not in kept]
    return table.permute(0, *axes).flatten(1 + len(kept)).sum(-1).flatten(1)


@_undisturbed
def state(circuit: Circuit, angles: Tensor, weights: Tensor) -> Tensor:
    """Return the complex final state `(batch, 2**n_qubits)`.

    Arguments and errors are those of `expvals`.
    """
    check_numbers(circuit, angles, weights)
    return _complex(
        _evolve(program(circuit, "state", angles.dtype, angles.device), angles, weights)
    )


def check_numbers(circuit: Circuit, angles: Tensor, weights: Tensor) -> None:
    """Raise CircuitError unless shapes and dtypes fit the circuit."""
    if angles.ndim != 2 or angles.shape[1] != circuit.n_angles:
        raise CircuitError(
            f"the circuit takes {'amplitudes' if circuit.amplitudes else 'angles'} of shape "
            f"(batch, {circuit.n_angles}), got {tuple(angles.shape)}"
        )
    if weights.ndim != 1 or weights.shape[0] != circuit.n_weights:
        raise CircuitError(
            f"the circuit takes weights of shape ({circuit.n_weights},), got {tuple(weights.shape)}"
        )
    if angles.dtype not in (torch.float32, torch.float64) or angles.dtype != weights.dtype:
        raise CircuitError(
            "angles and weights must both be float32 or both float64, "
            f"got {angles.dtype} and {weights.dtype}"
        )


def _evolve(code: Program, angles: Tensor, weights: Tensor) -> Tensor:
    """Return the final state `(batch, 2**n_qubits)`, real as long as no gate made it complex."""
    layers: list[tuple[Tensor, ...]] = []
    matrices: Matrices = {}
    for family, evaluate in code.families.items():
        gates = evaluate(angles, weights)
        gates = gates if code.plan.is_real else torch.view_as_complex(gates)
        if family == LAYERED:
            layers = _layers(code, gates)
        else:
            matrices[family] = gates.unbind(-3)
    psi = _initial(code, angles, weights)
    for run in code.runs:
        evolved = run.start if run.collapse else psi
        for step in run.steps:
            evolved = _apply(step, evolved, layers, matrices)
        assert evolved is not None  # a run has steps
        psi = _times(psi, evolved) if run.collapse else evolved
    return psi


def _layers(code: Program, gates: Tensor) -> list[tuple[Tensor, ...]]:
    """Return, for every block of qubits, the matrices `(2**size, 2**size)` of all layers."""
    chain, n_layers, n_qubits = code.plan.slots.shape
    if code.slots is not None:
        gates = gates[code.slots]
    else:
        gates = gates.unflatten(0, (chain, n_layers, n_qubits))
    single = reduce(lambda before, gate: gate @ before, gates.unbind(0)) if chain > 1 else gates[0]
    blocks = single.split(code.plan.blocks, dim=1)
    return [_join(block, _kronecker).unbind(0) for block in blocks]


def _initial(code: Program, angles: Tensor, weights: Tensor) -> Tensor:
    """Return the real state `(batch, 2**n_qubits)` that the steps start from."""
    if code.product is None:
        tiny = torch.finfo(angles.dtype).tiny
        return angles / torch.linalg.vector_norm(angles, dim=1, keepdim=True).clamp_min(tiny)
    halves = code.product(angles, weights).expand(angles.shape[0], code.plan.n_qubits, 2)
    return _join(halves, _outer)


def _join(factors: Tensor, product: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """Multiply the factors along axis 1 together, neighbours first, in a few large products."""
    last: Tensor | None = None
    while (count := factors.shape[1]) > 1:
        if count % 2:
            factors, odd = factors.split([count - 1, 1], dim=1)
            last = odd if last is None else product(odd, last)
        factors = product(*factors.unflatten(1, (count // 2, 2)).unbind(2))
    return (factors if last is None else product(factors, last)).squeeze(1)


def _outer(first: Tensor, second: Tensor) -> Tensor:
    return (first.unsqueeze(-1) * second.unsqueeze(-2)).flatten(-2)


def _kronecker(first: Tensor, second: Tensor) -> Tensor:
    table = first[..., :, None, :, None] * second[..., None, :, None, :]
    return table.flatten(-4, -3).flatten(-2)


def _apply(
    step: Step | Permute, psi: Tensor | None, layers: list[tuple[Tensor, ...]], matrices: Matrices
) -> Tensor:
    """Apply one step to the states `(rows, 2**n_qubits)`; None stands for all basis states."""
    if isinstance(step, Layer):
        return _apply_layer(step, psi, layers)
    assert psi is not None  # only a layer may come first in a collapsed run
    if isinstance(step, Permute):
        return step(psi)
    assert isinstance(step, Apply)
    return _apply_gate(step, psi, matrices[step.size, step.per_sample][step.number])


def _apply_layer(step: Layer, psi: Tensor | None, layers: list[tuple[Tensor, ...]]) -> Tensor:
    if len(layers) == 1:
        matrix = layers[0][step.number].mT
        return matrix if psi is None else _times(psi, matrix)
    assert psi is not None  # circuits of several blocks are not collapsed
    sizes = [block[0].shape[0] for block in layers]
    for block in step.blocks:
        matrix = layers[block][step.number]
        before = math.prod(sizes[:block])
        table = _like(psi, matrix).unflatten(1, (before, sizes[block], -1))
        psi = (matrix @ table).flatten(1)
    return psi


def _apply_gate(step: Apply, psi: Tensor, matrix: Tensor) -> Tensor:
    n = psi.shape[1].bit_length() - 1
    axes = [1 + q for q in step.qubits] + [1 + q for q in range(n) if q not in step.qubits]
    table = _like(psi, matrix).unflatten(1, (2,) * n).permute(0, *axes)
    moved = matrix @ table.flatten(1).unflatten(1, (step.size, -1))
    back = [1 + axes.index(1 + q) for q in range(n)]
    return moved.flatten(1).unflatten(1, (2,) * n).permute(0, *back).flatten(1)


def _times(psi: Tensor, matrix: Tensor) -> Tensor:
    """Return `psi @ matrix`; a real state meets real and imaginary parts in one real product."""
    if matrix.is_complex() and not psi.is_complex():
        parts = torch.view_as_real(matrix)
        return torch.view_as_complex((psi @ parts.flatten(1)).unflatten(1, (-1, 2)))
    return psi @ matrix


def _like(psi: Tensor, matrix: Tensor) -> Tensor:
    return _complex(psi) if matrix.is_complex() else psi


def _complex(psi: Tensor) -> Tensor:
    return psi if psi.is_complex() else torch.complex(psi, torch.zeros_like(psi))


def _squares(psi: Tensor) -> Tensor:
    """Return the squared real and imaginary parts side by side, `(batch, 2**n_qubits [* 2])`."""
    return torch.view_as_real(psi).square().flatten(1) if psi.is_complex() else psi.square()


def _expval(psi: Tensor, word: Permute) -> Tensor:
    psi = _complex(psi)
    return (psi.conj() * word(psi)).sum(-1).real
