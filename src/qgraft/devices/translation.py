"""A qnode translated once: circuits that take its inputs and weights as they are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import pi

import torch
import torch.nn.functional as F
from torch import Tensor

from qgraft.circuits.circuit import Circuit, Param
from qgraft.devices.affine import Watch, affine_params, padding
from qgraft.devices.from_pennylane import Script, circuits_of, widen
from qgraft.devices.readout import Readout, UntranslatableError
from qgraft.errors import ModelError
from qgraft.seeds import numpy_rng
from qgraft.simulate.backends import Backend

PROBES = 3  # samples a qnode is traced with
AGREE = 1e-4  # of gate parameters in float32, up to a few hundred radians


@dataclass(frozen=True)
class Layout:
    """How a qnode returns its measurements: alone, in a list or in a tuple of two or more."""

    kind: type
    widths: tuple[int, ...]

    @classmethod
    def of(cls, output: object, widths: tuple[int, ...]) -> Layout:
        """Return the layout of what a qnode's function returned."""
        if isinstance(output, tuple):
            return cls(tuple if len(output) > 1 else list, widths)
        return cls(list if isinstance(output, list) else object, widths)

    def arrange(self, table: Tensor, lead: torch.Size) -> Tensor:
        """Return a table `(batch, columns)` in the shape that `qml.qnn.TorchLayer` gives it."""
        if self.kind is tuple:
            if len(set(self.widths)) > 1:
                raise ModelError(
                    f"a tuple of measurements of {self.widths} numbers cannot be stacked; "
                    "return them in a list to have them side by side"
                )
            shape = (table.shape[0], len(self.widths), self.widths[0])
            return table.reshape(shape).movedim(1, 0).reshape(shape[1], *lead, shape[2])
        if self.kind is object and self.widths == (1,):
            return table.reshape(lead)
        return table if len(lead) == 1 else table.reshape(*lead, table.shape[1])


@dataclass(frozen=True)
class Translation:
    """A qnode translated once for inputs of one width.

    Attributes:
        circuits: take the inputs as angles, or as amplitudes, and all weights in a row.
        pad: what fills up the amplitudes; None for angles.
        state_qubits: how many qubits the amplitudes are for.
    """

    circuits: tuple[Circuit, ...]
    readout: Readout
    layout: Layout
    pad: float | None = None
    state_qubits: int = 0

    def __call__(self, inputs: Tensor, weights: list[Tensor], backend: Backend = "auto") -> Tensor:
        """Return the table `(batch, columns)` for inputs `(batch, width)` or `(width,)`."""
        rows = inputs if inputs.ndim > 1 else inputs[None]
        circuit = self.circuits[0] if self.circuits else None
        if circuit is None:
            return self.readout.table((), rows, rows, backend)
        if self.pad is None:
            rows = _first(rows, circuit.n_angles)
        else:
            missing = 2**self.state_qubits - rows.shape[1]
            rows = F.pad(rows, (0, missing), value=self.pad) if missing else rows
            if self.state_qubits < circuit.n_qubits:
                rows = widen(rows, circuit.n_qubits)
        flat = [weight.reshape(-1) for weight in weights]
        row = flat[0] if len(flat) == 1 else torch.cat([rows.new_empty(0), *flat])
        return self.readout.table(self.circuits, rows, _first(row, circuit.n_weights), backend)


def _first(numbers: Tensor, count: int) -> Tensor:
    """Return the first numbers of the last axis; a slice of everything would still cost time."""
    return numbers if numbers.shape[-1] == count else numbers[..., :count]


def translate(
    trace: Callable[[Tensor, list[Tensor]], tuple[Script, Layout]],
    inputs: Tensor,
    weights: list[Tensor],
) -> Translation | None:
    """Return the translation of a qnode, or None when its expressions must be kept.

    Args:
        trace: runs the qnode's function on given numbers.
        inputs: `(batch, width)` or `(width,)`; the translation is checked against them.
        weights: the layer's weights.

    Raises:
        UntranslatableError: the qnode has no counterpart as a circuit.
    """
    random = numpy_rng(0, "trace")
    shape = (PROBES, inputs.shape[-1]) if inputs.ndim > 1 else inputs.shape

    def probe(size: tuple[int, ...]) -> Tensor:
        return torch.tensor(random.normal(size=size) * pi, dtype=torch.float64).requires_grad_()

    points, numbers = probe(tuple(shape)), [probe(tuple(weight.shape)) for weight in weights]
    with torch.enable_grad(), torch.inference_mode(False):
        try:
            with Watch() as watch:
                script, layout = trace(points, numbers)
        except UntranslatableError:
            raise
        except Exception:  # whatever the function does, it is not affine; the retrace decides
            return None
        if watch.found:
            return None
        params = affine_params(script, points, numbers)
    pad = None if script.state is None else padding(script, points)
    if params is None or (script.state is not None and pad is None):
        return None
    if script.state is not None and any(param.source == "angle" for param in params):
        raise UntranslatableError(f"{script.state.name} together with gates on a batch of angles")
    if inputs.numel():
        real, _ = trace(inputs, weights)
        same = (real.gates, real.readout) == (script.gates, script.readout)
        if not same or not _agrees(real, params, pad, inputs, weights):
            return None
    circuits = circuits_of(
        script.n_qubits, script.gates, tuple(params), script.state is not None, script.readout
    )
    qubits = 0 if script.state is None else len(script.state.wires)
    return Translation(circuits, script.readout, layout, pad, qubits)


def _agrees(
    script: Script, params: list[Param], pad: float | None, inputs: Tensor, weights: list[Tensor]
) -> bool:
    """Check a translation on the first real inputs and weights."""
    if script.state is not None and padding(script, inputs, AGREE) != pad:
        return False
    return all(
        torch.allclose(
            torch.as_tensor(value).to(inputs).squeeze(),
            _evaluate(param, inputs, weights).squeeze(),
            AGREE,
            AGREE,
        )
        for param, value in zip(params, script.params, strict=True)
    )


def _evaluate(param: Param, inputs: Tensor, weights: list[Tensor]) -> Tensor:
    if param.source == "constant":
        return inputs.new_tensor(param.offset)
    if param.source == "weight":
        source = torch.cat([weight.reshape(-1) for weight in weights])[param.index]
    else:
        source = inputs[..., param.index]
    return param.scale * source + param.offset
