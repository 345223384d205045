"""Find out whether a qnode only moves, scales and shifts its inputs and weights.

Most do: templates index and reshape. Then every gate parameter is `scale * source[index] +
offset`, which a circuit can say by itself, and the qnode's function need not run again. The proof
has two parts: no torch function but those in `LINEAR` ever touches a traced tensor, so a
parameter is an affine map, and the gradient of that map, exact for affine maps, has one entry.
"""

from __future__ import annotations

import sys
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from qgraft.circuits.circuit import Param
from qgraft.devices.from_pennylane import Script

_LINEAR = """
    __getitem__ __iter__ select narrow unbind split chunk index_select take_along_dim
    reshape view flatten unflatten ravel squeeze unsqueeze expand expand_as broadcast_to
    transpose t permute swapaxes swapdims moveaxis movedim T mT mH H
    stack cat concat concatenate hstack vstack dstack column_stack clone contiguous
    to double float type type_as as_tensor real conj
    add __add__ __radd__ sub subtract __sub__ __rsub__ rsub neg negative __neg__
    mul multiply __mul__ __rmul__ div divide true_divide __truediv__
"""
_ABOUT = """
    shape size dim ndim ndimension numel dtype device layout __len__ __hash__ is_complex
    is_floating_point requires_grad is_sparse is_leaf grad_fn names itemsize element_size
    is_cuda is_quantized is_meta is_nested stride storage_offset result_type __repr__ __format__
"""
LINEAR = frozenset(_LINEAR.split())
PRODUCTS = frozenset({"mul", "multiply", "__mul__", "__rmul__"})
QUOTIENTS = frozenset({"div", "divide", "true_divide", "__truediv__"})
ABOUT = frozenset(_ABOUT.split())  # what a tensor is, not what is in it
VALIDATION = ("state_preparation.py", "amplitude.py")  # PennyLane looks at the norm there
TINY = 1e-12


class Watch(TorchFunctionMode):
    """Notes the first torch function that is not affine in the tensors that require grad."""

    def __init__(self) -> None:
        super().__init__()
        self.found: str | None = None

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Call the function and look at what went in and came out."""
        result = func(*args, **(kwargs or {}))
        name = func.__name__
        if name == "__get__":
            name = func.__self__.__name__
        is_harmless = self.found is not None or self._is_affine(name, args, kwargs, result)
        if not is_harmless and not _from_validation():
            self.found = name
        return result

    def _is_affine(self, name: str, args: tuple[Any, ...], kwargs: Any, result: Any) -> bool:
        if "rand" in name or name in ("normal", "bernoulli", "multinomial", "normal_", "uniform_"):
            return False
        traced = [leaf for leaf in tree_leaves((args, kwargs)) if _is_traced(leaf)]
        if not traced or name in ABOUT:
            return True
        if name not in LINEAR or (name in PRODUCTS and len(traced) > 1):
            return False
        if name in QUOTIENTS and (len(args) < 2 or _is_traced(args[1])):
            return False
        outputs = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
        return name == "__iter__" or all(map(_is_traced, outputs))


def _is_traced(value: Any) -> bool:
    return isinstance(value, Tensor) and value.requires_grad


def _from_validation() -> bool:
    frame = sys._getframe(2)
    while frame is not None:
        if frame.f_code.co_filename.endswith(VALIDATION):
            return True
        frame = frame.f_back
    return False


def affine_params(script: Script, inputs: Tensor, weights: list[Tensor]) -> list[Param] | None:
    """Return every parameter of a traced script as a `Param`, or None when one has no such form.

    Args:
        script: traced with `inputs` and `weights` that require grad, under a silent `Watch`.
        inputs: `(batch, width)` or `(width,)`, random float64.
        weights: random float64; a weight's index counts through all of them flattened.
    """
    found = [_affine_param(param, inputs, weights) for param in script.params]
    params = [param for param in found if param is not None]
    return params if len(params) == len(found) else None


def _affine_param(value: Any, inputs: Tensor, weights: list[Tensor]) -> Param | None:
    if not _is_traced(value):
        number = torch.as_tensor(value, dtype=torch.float64)
        return Param("constant", offset=number.item()) if number.numel() == 1 else None
    rows = inputs if inputs.ndim > 1 else inputs[None]
    gradients = torch.autograd.grad(
        value.sum(), [inputs, *weights], retain_graph=True, materialize_grads=True
    )
    by_input = gradients[0].reshape(rows.shape)
    by_weight = torch.cat([gradient.reshape(-1) for gradient in gradients[1:]]) if weights else None
    at_weight = by_weight.nonzero().flatten().tolist() if by_weight is not None else []
    if value.numel() == 1 and len(at_weight) == 1 and not by_input.any():
        assert by_weight is not None
        flat = torch.cat([weight.detach().reshape(-1) for weight in weights])
        return _param("weight", at_weight[0], by_weight[at_weight[0]], flat[at_weight[0]], value)
    columns = by_input.any(dim=0).nonzero().flatten().tolist()
    if at_weight or len(columns) != 1 or value.numel() != len(rows):
        return None
    scales = by_input[:, columns[0]]
    if (scales != scales[0]).any():
        return None
    return _param("angle", columns[0], scales[0], rows[:, columns[0]].detach(), value)


def _param(source: Any, index: int, scale: Tensor, at: Tensor, value: Tensor) -> Param | None:
    """Return the parameter `scale * at + offset` if its offset is the same for all samples."""
    offsets = (value.detach() - scale * at).reshape(-1)
    if (offsets - offsets[0]).abs().max() > TINY:
        return None
    offset = offsets[0].item()
    return Param(source, index, scale.item(), offset if abs(offset) > TINY else 0.0)


def padding(script: Script, inputs: Tensor, tolerance: float = 1e-6) -> float | None:
    """Return what the inputs are padded with to be the amplitudes, or None if they are not.

    PennyLane rounds the padding to float32, hence the tolerance.
    """
    options = script.state.hyperparameters
    if not (options.get("normalize") or options.get("pad_with") is not None):
        return None
    pad, size = float(options.get("pad_with") or 0.0), 2 ** len(script.state.wires)
    if inputs.shape[-1] > size:
        return None
    with torch.no_grad():
        expected = F.normalize(F.pad(inputs, (0, size - inputs.shape[-1]), value=pad), dim=-1)
        same = torch.allclose(expected, torch.as_tensor(script.state.data[0]).real, 0, tolerance)
    return pad if same else None
