"""Where a circuit runs: the native kernels on the CPU, torch for everything else."""

from __future__ import annotations

from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from qgraft.circuits.circuit import Circuit
from qgraft.errors import CircuitError
from qgraft.simulate import statevector

Backend = Literal["auto", "native", "torch"]
PLAIN = (Tensor, nn.Parameter)
core: Any = torch._C
FLOATS = (torch.float32, torch.float64)


def expvals(circuit: Circuit, angles: Tensor, weights: Tensor, backend: Backend = "auto") -> Tensor:
    """Return the expectation values `(batch, n_observables)` of the circuit's Pauli words.

    Args:
        circuit: what to simulate.
        angles: `(batch, n_angles)`, or the amplitudes `(batch, 2**n_qubits)`.
        weights: `(n_weights,)`, of the same dtype (float32 or float64) and device.
        backend: `"native"` for the compiled CPU kernels, `"torch"`, or `"auto"` for the first
            that can do it.

    Raises:
        CircuitError: the numbers do not fit the circuit or the backend.
    """
    if active_backend(angles, weights, backend) == "native":
        from qgraft.simulate.native import native_expvals

        return native_expvals(circuit, angles, weights)
    return statevector.expvals(circuit, angles, weights)


def probabilities(
    circuit: Circuit, angles: Tensor, weights: Tensor, backend: Backend = "auto"
) -> Tensor:
    """Return the joint outcome probabilities `(batch, 2**k)` of the circuit's k read-out qubits.

    Arguments and errors are those of `expvals`.
    """
    if active_backend(angles, weights, backend) == "native":
        from qgraft.simulate.native import native_probabilities

        return native_probabilities(circuit, angles, weights)
    return statevector.probabilities(circuit, angles, weights)


def active_backend(
    angles: Tensor, weights: Tensor, backend: Backend = "auto"
) -> Literal["native", "torch"]:
    """Return the backend that runs these tensors at this place.

    The kernels take plain float32 or float64 tensors on the CPU, outside `torch.compile`,
    `torch.export`, `torch.func` transforms, tracing and forward-mode differentiation.

    Raises:
        CircuitError: there is no such backend, or the native one cannot run this.
    """
    if backend == "torch":
        return "torch"
    if backend not in get_args(Backend):
        raise CircuitError(f"backend {backend!r} is unknown; use one of {get_args(Backend)}")
    obstacle = _obstacle(angles, weights)
    if obstacle and backend == "native":
        raise CircuitError(f"the native backend cannot run {obstacle}; use backend='auto'")
    return "torch" if obstacle else "native"


def _obstacle(angles: Tensor, weights: Tensor) -> str:
    """Return what keeps the native kernels from running here, or nothing."""
    if torch.compiler.is_compiling() or core._get_tracing_state() is not None:
        return "while torch compiles, exports or traces"
    if core._functorch.maybe_current_level() is not None:
        return "under torch.func transforms"
    if torch.autograd.forward_ad._current_level >= 0:
        return "forward-mode differentiation"
    for tensor in (angles, weights):
        if type(tensor) not in PLAIN:
            return f"a {type(tensor).__name__}"
        if not tensor.is_cpu or tensor.dtype not in FLOATS:
            return f"{tensor.dtype} numbers on {tensor.device}"
    return ""
