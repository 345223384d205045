"""A plan made ready for one dtype on one torch device: its constants as tensors, built once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from qgraft.circuits.circuit import Circuit
from qgraft.simulate.plan import Fixed, Layer, Plan, Read, Step, Trig, compile_circuit

Evaluate = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Permute:
    """`Fixed` as tensors; a phase of None means ones."""

    index: Tensor
    phase: Tensor | None

    def __call__(self, psi: Tensor) -> Tensor:
        """Permute the amplitudes `(rows, 2**n_qubits)`."""
        moved = psi.index_select(1, self.index)
        return moved if self.phase is None else moved * self.phase


@dataclass(frozen=True)
class Run:
    """Steps in a row.

    Attributes:
        steps: what to apply.
        collapse: apply them to the basis states first, then the batch meets one matrix.
        start: the matrix that a collapsed run starts from; None when its first step replaces it.
    """

    steps: tuple[Step | Permute, ...]
    collapse: bool = False
    start: Tensor | None = None


@dataclass(frozen=True, eq=False)
class Program:
    """A plan with its constants; the functions take `(angles, weights)`."""

    plan: Plan
    product: Evaluate | None
    families: dict[tuple[int, bool], Evaluate]
    slots: Tensor | None
    runs: tuple[Run, ...]
    signs: tuple[Tensor, ...]
    words: tuple[Permute, ...]


def program(circuit: Circuit, read: Read, dtype: torch.dtype, device: torch.device) -> Program:
    """Return the program of one read-out, from a cache unless torch is tracing."""
    if torch.compiler.is_compiling():  # the constants made while tracing belong to the trace
        return _build(circuit, read, dtype, device)
    return _cached(circuit, read, dtype, device)


@lru_cache(maxsize=64)
def _cached(circuit: Circuit, read: Read, dtype: torch.dtype, device: torch.device) -> Program:
    with torch.inference_mode(False):  # kept constants must serve a later training step too
        return _build(circuit, read, dtype, device)


def _build(circuit: Circuit, read: Read, dtype: torch.dtype, device: torch.device) -> Program:
    plan = compile_circuit(circuit, read)

    def real(array: np.ndarray) -> Tensor:
        return torch.as_tensor(array, dtype=dtype, device=device)

    def permute(index: np.ndarray, phase: np.ndarray, is_real: bool) -> Permute:
        cosine, sine = real(np.real(phase)), real(np.imag(phase))
        values = cosine if is_real else torch.complex(cosine, sine)
        return Permute(
            torch.as_tensor(index, dtype=torch.int64, device=device),
            None if (phase == 1).all() else values,
        )

    def run(collapse: bool, steps: tuple[Step, ...]) -> Run:
        ready = tuple(
            permute(s.index, s.phase, plan.is_real) if isinstance(s, Fixed) else s for s in steps
        )
        if not collapse or isinstance(ready[0], Layer):
            return Run(ready, collapse)
        start, first = real(np.eye(2**plan.n_qubits)), ready[0]
        if isinstance(first, Permute):
            return Run(ready[1:], True, first(start))
        return Run(ready, True, start)

    return Program(
        plan=plan,
        product=None if plan.product is None else evaluator(plan.product, real),
        families={key: evaluator(trig, real) for key, trig in plan.families.items()},
        slots=_slots(plan, device),
        runs=tuple(run(*pair) for pair in plan.runs),
        signs=tuple(map(real, plan.signs)),
        words=tuple(permute(index, phase, False) for index, phase in plan.words),
    )


def _slots(plan: Plan, device: torch.device) -> Tensor | None:
    """Return where a layer finds its matrices, or None when they lie in order already."""
    count = plan.families[2, False].shape[0] if plan.slots.size else 0
    if plan.slots.size == count and (plan.slots.reshape(-1) == np.arange(count)).all():
        return None
    return torch.as_tensor(plan.slots, device=device)


def evaluator(trig: Trig, real: Callable[[np.ndarray], Tensor]) -> Evaluate:
    """Return the function that computes `trig`, without the factors and terms that are trivial."""
    m = len(trig.scale)
    second = trig.offset[m:].any() or trig.weights[m:].any() or trig.angles[m:].any()
    used = 2 * m if second else m
    offset = real(trig.offset[:used])
    by_weight = real(trig.weights[:used].T.copy()) if trig.weights[:used].any() else None
    by_angle = real(trig.angles[:used].T.copy()) if trig.angles[:used].any() else None
    scale = None if (trig.scale == 1).all() else real(trig.scale)
    shape = trig.shape

    def evaluate(angles: Tensor, weights: Tensor) -> Tensor:
        args = offset
        if by_weight is not None:
            args = torch.addmm(args, weights[None], by_weight)[0]  # not addmv: row-major in vmap
        if by_angle is not None:
            args = torch.addmm(args, angles, by_angle)  # (batch, used)
        values = args.cos()
        if second:
            first_factor, second_factor = values.split(m, dim=-1)
            values = first_factor * second_factor
        if scale is not None:
            values = values * scale
        return values.unflatten(-1, shape)

    return evaluate
