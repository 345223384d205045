"""A PennyLane qnode as a torch layer, run by qgraft's simulator instead of PennyLane's.

Takes the arguments of `qml.qnn.TorchLayer` and has its state dict, shapes and outputs. Where the
qnode only moves, scales and shifts numbers it is translated once (`translation == "affine"`);
otherwise its function runs at every call to compute the gate parameters (`"retraced"`), which
keeps any expression such as `inputs[..., 0] * w` or `torch.sin(w)`.
"""

from __future__ import annotations

import copy
import inspect
import math
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from qgraft.devices.from_pennylane import bind, check_qnode, read_tape, record
from qgraft.devices.readout import UntranslatableError
from qgraft.devices.translation import Layout, Translation, translate
from qgraft.errors import ModelError
from qgraft.simulate.backends import Backend

Init = Callable[[Tensor], Tensor] | Mapping[str, Any] | None
Path = Literal["affine", "retraced", "pennylane"]


class TorchLayer(nn.Module):
    """A qnode's measurements as a layer: `(..., n_inputs)` to what `qml.qnn.TorchLayer` returns.

    `translation` tells how it runs: `"affine"` (translated once; Python in the qnode's function
    does not run again), `"retraced"`, `"pennylane"` (with `fallback`), None before the first call.

    Computes in float32 or float64, as the inputs are. Half-precision inputs are computed in
    float32 and returned as they came, except under autocast, where the outputs stay float32.
    An embedded amplitude vector is normalised for every sample, also in the gradient.

    Args:
        qnode: takes an argument `inputs` and the weights by name.
        weight_shapes: the shape of every weight.
        init_method: a function of `torch.nn.init`, or one function or tensor per weight; by
            default uniform in [0, 2 pi).
        fallback: run the qnode on PennyLane when it cannot be translated, instead of refusing.
        backend: where circuits run: `"auto"`, `"native"` (compiled, CPU) or `"torch"`.

    Raises:
        ModelError: the arguments do not fit the qnode.
        CircuitError: at the first call: names the operation or measurement without counterpart.
    """

    def __init__(
        self,
        qnode: Any,
        weight_shapes: Mapping[str, Any],
        init_method: Init = None,
        *,
        fallback: bool = False,
        backend: Backend = "auto",
    ) -> None:
        super().__init__()
        self.input_arg = "inputs"
        _check_signature(qnode, weight_shapes, self.input_arg)
        self.qnode, self.fallback = qnode, fallback
        self.backend: Backend = backend
        self.weight_names = tuple(weight_shapes)
        for name, shape in weight_shapes.items():
            self.register_parameter(name, nn.Parameter(_initial(name, _shape(shape), init_method)))
        # By (is there a batch, width): the translation, or how the layer does without one.
        self._paths: dict[tuple[bool, int], Translation | Literal["retraced", "pennylane"]] = {}

    @property
    def translation(self) -> Path | None:
        """How the last new width of inputs is run; None before the first call."""
        if not self._paths:
            return None
        last = list(self._paths.values())[-1]
        return last if isinstance(last, str) else "affine"

    @property
    def qnode_weights(self) -> dict[str, Tensor]:
        """The weights by name."""
        return {name: getattr(self, name) for name in self.weight_names}

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the measurements for inputs `(..., n_inputs)`.

        A single expectation value gives `(...)`, a list `(..., columns)` and a tuple
        `(n_measurements, ..., columns)`.
        """
        if inputs.ndim == 0 or not inputs.is_floating_point():
            raise ModelError(
                f"the layer takes floating-point inputs (..., n_inputs), got {inputs.dtype} "
                f"of shape {tuple(inputs.shape)}"
            )
        lead, wide = inputs.shape[:-1], torch.promote_types(inputs.dtype, torch.float32)
        rows = inputs.to(wide) if inputs.ndim < 3 else inputs.to(wide).flatten(0, -2)
        weights = [getattr(self, name).to(rows) for name in self.weight_names]
        key = (bool(lead), inputs.shape[-1])
        if key not in self._paths:
            self._paths[key] = self._find_path(rows, weights)
        path = self._paths[key]
        if isinstance(path, Translation):
            layout, table = path.layout, path(rows, weights, self.backend)
        else:
            run = self._retrace if path == "retraced" else self._run_pennylane
            layout, table = run(rows, weights)
        keep = torch.is_autocast_enabled(inputs.device.type)
        return layout.arrange(table, lead).to(wide if keep else inputs.dtype)

    @torch.compiler.disable()
    def _find_path(
        self, rows: Tensor, weights: list[Tensor]
    ) -> Translation | Literal["retraced", "pennylane"]:
        if self.qnode is None:
            raise ModelError(
                f"this layer was pickled without its qnode and knows inputs of width "
                f"{', '.join(str(width) for _, width in self._paths)} only, got {rows.shape[-1]}"
            )
        try:
            check_qnode(self.qnode)
            found = translate(self._script, rows, weights)
            if found is None:
                self._retrace(rows, weights)
        except UntranslatableError:
            if self.fallback:
                return "pennylane"
            raise
        return found or "retraced"

    def _script(self, rows: Tensor, weights: list[Tensor]) -> Any:
        """Run the qnode's function on these numbers; return the script and the layout."""
        arguments = dict(zip(self.weight_names, weights, strict=True))
        tape, output = record(self.qnode, {self.input_arg: rows, **arguments})
        script = read_tape(tape, self.qnode.device.wires)
        return script, Layout.of(output, script.readout.widths)

    @torch.compiler.disable()
    def _retrace(self, rows: Tensor, weights: list[Tensor]) -> tuple[Layout, Tensor]:
        is_empty = rows.numel() == 0  # PennyLane knows no batch of nothing
        script, layout = self._script(
            rows.new_ones(1, rows.shape[-1]) if is_empty else rows, weights
        )
        circuits, angles, single = bind(script, rows.dtype, rows.device)
        table = script.readout.table(circuits, angles, single, self.backend)
        if rows.ndim > 1 and len(table) != len(rows):  # nothing depends on the inputs
            table = table[:1].expand(len(rows), -1)
        return layout, table

    @torch.compiler.disable()
    def _run_pennylane(self, rows: Tensor, weights: list[Tensor]) -> tuple[Layout, Tensor]:
        arguments = dict(zip(self.weight_names, weights, strict=True))
        output = self.qnode(**{self.input_arg: rows, **arguments})
        measured = [output] if isinstance(output, Tensor) else list(output)
        batch = len(rows) if rows.ndim > 1 else 1
        columns = [torch.as_tensor(each).reshape(batch, -1) for each in measured]
        layout = Layout.of(output, tuple(column.shape[1] for column in columns))
        return layout, torch.cat(columns, dim=1).to(rows.dtype)

    def extra_repr(self) -> str:
        """Name the qnode's function and how it is run."""
        name = "" if self.qnode is None else f"func={self.qnode.func.__name__}, "
        return f"{name}translation={self.translation}"

    def __deepcopy__(self, memo: dict[int, Any]) -> TorchLayer:
        twin = type(self).__new__(type(self))
        memo[id(self)] = twin
        memo[id(self.qnode)] = self.qnode  # shared: a qnode may hold functions and hardware
        twin.__dict__.update(copy.deepcopy(self.__dict__, memo))
        return twin

    def __getstate__(self) -> dict[str, Any]:
        """Leave the qnode behind: functions do not pickle, a translation does."""
        if not self._paths or any(isinstance(path, str) for path in self._paths.values()):
            raise ModelError(
                "this layer still needs its qnode, which cannot be pickled: call it once first "
                'and see that translation is "affine", or save its state_dict'
            )
        return {**self.__dict__, "qnode": None}


def _check_signature(qnode: Any, weight_shapes: Mapping[str, Any], input_arg: str) -> None:
    if not hasattr(qnode, "func") or not hasattr(qnode, "device"):
        raise ModelError(f"TorchLayer needs a PennyLane QNode, got {type(qnode).__name__}")
    if qnode.interface not in ("auto", "torch"):
        raise ModelError(f"the qnode's interface is {qnode.interface!r}; use 'torch' or 'auto'")
    signature = inspect.signature(qnode.func).parameters
    kinds = {parameter.kind for parameter in signature.values()}
    if input_arg not in signature:
        raise ModelError(f"the qnode needs an argument {input_arg!r}, it has {list(signature)}")
    if input_arg in weight_shapes:
        raise ModelError(f"{input_arg!r} is data and has no place in weight_shapes")
    if inspect.Parameter.VAR_POSITIONAL in kinds:
        raise ModelError("the qnode may not take a variable number of positional arguments")
    wanted = set(signature) - {input_arg}
    if inspect.Parameter.VAR_KEYWORD not in kinds and set(weight_shapes) != wanted:
        raise ModelError(
            f"weight_shapes must name every argument but {input_arg!r}: "
            f"{sorted(wanted)}, got {sorted(weight_shapes)}"
        )


def _shape(size: Any) -> tuple[int, ...]:
    """Return a shape; the number 1 means a single number, as PennyLane reads it."""
    if isinstance(size, Iterable):
        return tuple(size)
    return () if size == 1 else (size,)


def _initial(name: str, shape: tuple[int, ...], init_method: Init) -> Tensor:
    init: Any = init_method or partial(nn.init.uniform_, b=2 * math.pi)
    if isinstance(init, Mapping):
        if name not in init:
            raise ModelError(f"init_method has no entry for weight {name!r}, only {list(init)}")
        init = init[name]
    if isinstance(init, Tensor):
        if tuple(init.shape) != shape:
            raise ModelError(
                f"init_method gives weight {name!r} the shape {tuple(init.shape)}, "
                f"weight_shapes says {shape}"
            )
        return init
    return init(torch.empty(shape)) if shape else init(torch.empty(1))[0]
