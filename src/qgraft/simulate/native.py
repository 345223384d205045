"""Circuits at native speed on the CPU: the compiled kernels as one differentiable torch operation.

The compiled code is kept on disk, in `$NUMBA_CACHE_DIR` or the user's cache folder; the first call
ever compiles for a few seconds per dtype. Two threads give the same bits as one.
"""

from __future__ import annotations

import math
import os
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from qgraft.circuits.circuit import Circuit
from qgraft.errors import CircuitError
from qgraft.simulate.kernels import backward, collect, forward
from qgraft.simulate.lanes import LANES
from qgraft.simulate.lowering import Program, Read, lower, packs
from qgraft.simulate.statevector import check_numbers
from qgraft.simulate.threads import on_threads

SMALL = 2**26  # bytes that need no look at the machine's memory
THREADS_FROM = 2_000_000  # amplitudes times steps; below, waking a thread costs more than it saves


def native_expvals(circuit: Circuit, angles: Tensor, weights: Tensor) -> Tensor:
    """Return the expectation values `(batch, n_observables)` of the circuit's Pauli words.

    Args:
        circuit: what to simulate.
        angles: `(batch, n_angles)`, or the amplitudes `(batch, 2**n_qubits)`, on the CPU.
        weights: `(n_weights,)`, of the same dtype (float32 or float64).

    Raises:
        CircuitError: the numbers do not fit, memory does not suffice, there are no observables,
            or the result is differentiated twice.
    """
    if not circuit.observables:
        raise CircuitError("the circuit has no observables; give some or ask for probabilities")
    check_numbers(circuit, angles, weights)
    return _NativeRead.apply(circuit, "expvals", angles, weights)


def native_probabilities(circuit: Circuit, angles: Tensor, weights: Tensor) -> Tensor:
    """Return the joint outcome probabilities `(batch, 2**k)` of the circuit's k read-out qubits.

    Arguments and errors are those of `native_expvals`.
    """
    if not circuit.probabilities:
        raise CircuitError("the circuit reads no probabilities out; name its qubits")
    check_numbers(circuit, angles, weights)
    return _NativeRead.apply(circuit, "probabilities", angles, weights)


class _NativeRead(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, circuit: Circuit, read: Read, angles: Tensor, weights: Tensor) -> Tensor:
        keep = ctx.needs_input_grad[2] or ctx.needs_input_grad[3]
        program = lower(circuit, read, packs(circuit.n_qubits, len(angles)))
        inputs, numbers = _array(angles), _array(weights)
        out, states = run_forward(program, inputs, numbers, keep)
        if keep:
            ctx.program, ctx.states = program, states
            ctx.save_for_backward(angles, weights)
        return torch.from_numpy(out)

    @staticmethod
    def backward(ctx: Any, *by_outputs: Tensor) -> Any:
        refuse_second_derivative()
        angles, weights = map(_array, ctx.saved_tensors)
        states, ctx.states = ctx.states, None  # turned back in place: a second pass recomputes
        if states is None:
            _, states = run_forward(ctx.program, angles, weights, keep=True)
        (by_output,) = by_outputs
        gradients = run_backward(ctx.program, angles, weights, states, _array(by_output))
        by_input, by_weight = map(torch.from_numpy, gradients)
        return None, None, by_input, by_weight


def refuse_second_derivative() -> None:
    """Raise CircuitError where a backward pass is itself being differentiated."""
    if torch.is_grad_enabled():
        raise CircuitError(
            "the native kernels have first derivatives only; use backend='torch' to "
            "differentiate twice"
        )


def run_forward(
    program: Program, inputs: np.ndarray, weights: np.ndarray, keep: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Return the outputs `(batch, n_outputs)` and the states, one per tile if `keep`."""
    tiles, threads = _tiles(program, len(inputs))
    n_qubits, row_bits, is_real = program.shape[:3].tolist()
    shape = (tiles if keep else threads, 2 if is_real else 3, 2**row_bits, LANES)
    states = _aligned(shape, inputs.dtype, n_qubits)
    out = np.empty((len(inputs), len(program.outputs)), inputs.dtype)

    def work(thread: int) -> None:
        own = states if keep else states[thread : thread + 1]
        forward(program, inputs, weights, own, keep, thread, threads, out)

    on_threads(work, threads)
    return out, states


def run_backward(
    program: Program,
    inputs: np.ndarray,
    weights: np.ndarray,
    states: np.ndarray,
    by_output: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the gradients of inputs and weights, using `states` up."""
    tiles, threads = _tiles(program, len(inputs))
    by_input = np.zeros_like(inputs)
    by_weight = np.zeros((tiles, len(weights)))
    by_slot = np.empty((tiles, program.shape[7]))

    def work(thread: int) -> None:
        backward(
            program,
            inputs,
            weights,
            states,
            thread,
            threads,
            by_output,
            by_input,
            by_weight,
            by_slot,
        )

    on_threads(work, threads)
    gradient = np.zeros(len(weights))
    collect(program, weights, by_slot, by_weight, gradient)
    return by_input, gradient.astype(weights.dtype)


def _array(tensor: Tensor) -> np.ndarray:
    return tensor.detach().contiguous().numpy()


def _tiles(program: Program, batch: int) -> tuple[int, int]:
    """Return the number of tiles and of threads that share them."""
    tiles = batch if program.shape[4] else -(-batch // LANES)
    work = len(program.steps) * tiles * LANES << int(program.shape[1])
    if tiles < 2 or work < THREADS_FROM:
        return tiles, 1
    return tiles, max(1, min(tiles, torch.get_num_threads()))


def _aligned(shape: tuple[int, ...], dtype: np.dtype, n_qubits: int) -> np.ndarray:
    """Return an uninitialised array that starts on a cache line."""
    size = math.prod(shape) * dtype.itemsize
    try:
        if size > SMALL and size > _memory():
            raise MemoryError
        memory = np.empty(size + 64, np.uint8)
    except MemoryError:
        raise CircuitError(
            f"{n_qubits} qubits need {size:,} bytes for the states of this batch, more than this "
            "machine has; use fewer qubits or a smaller batch"
        ) from None
    start = -memory.__array_interface__["data"][0] % 64
    return memory[start : start + size].view(dtype).reshape(shape)


@lru_cache(maxsize=1)
def _memory() -> int:
    """Return the bytes of physical memory, or a large number where the system does not tell."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return 2**62
