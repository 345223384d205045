"""A dressed head as one differentiable operation, for the native backend.

A head this small spends its time between torch's operations, not in them. One operation instead
of eight, with the gradient of the affine layers written out, halves a training step; values and
gradients are those of the modules one by one.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from qgraft.circuits.circuit import Circuit
from qgraft.simulate.lowering import lower, packs
from qgraft.simulate.native import refuse_second_derivative, run_backward, run_forward

aten: Any = torch.ops.aten


def can_fuse(pre: nn.Linear, post: nn.Linear, features: Tensor, weights: Tensor) -> bool:
    """Tell whether the layers may be bypassed: plain floats and no hooks."""
    plain = features.ndim == 2 and features.dtype == weights.dtype == pre.weight.dtype
    listening = (
        pre._forward_hooks or pre._forward_pre_hooks or pre._backward_hooks
        or post._forward_hooks or post._forward_pre_hooks or post._backward_hooks
    )  # fmt: skip
    return plain and not listening and not torch.is_autocast_enabled("cpu")


def fused_head(
    circuit: Circuit,
    scale: float,
    relu: bool,
    features: Tensor,
    pre: nn.Linear,
    weights: Tensor,
    post: nn.Linear,
) -> Tensor:
    """Return the logits `(batch, n_classes)` of features `(batch, n_features)`."""
    layers = pre.weight, pre.bias, weights, post.weight, post.bias
    return _FusedHead.apply(circuit, scale, relu, features, *layers)


class _FusedHead(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        circuit: Circuit,
        scale: float,
        relu: bool,
        features: Tensor,
        pre: Tensor,
        pre_bias: Tensor,
        weights: Tensor,
        post: Tensor,
        post_bias: Tensor,
    ) -> Tensor:
        bent = F.linear(features, pre, pre_bias).tanh_()
        angles = bent if scale == 1.0 else bent * scale
        keep = any(ctx.needs_input_grad)
        program = lower(circuit, "expvals", packs(circuit.n_qubits, len(features)))
        inputs, numbers = angles.numpy(), weights.detach().numpy()
        out, states = run_forward(program, inputs, numbers, keep)
        values = torch.from_numpy(out)
        if relu:
            values.relu_()
        if keep:
            ctx.scale, ctx.relu, ctx.program, ctx.states = scale, relu, program, states
            ctx.angles, ctx.bent, ctx.values = inputs, bent, values
            ctx.save_for_backward(features, pre, weights, post)
        return F.linear(values, post, post_bias)

    @staticmethod
    def backward(ctx: Any, *by_outputs: Tensor) -> Any:
        refuse_second_derivative()
        (by_logits,) = by_outputs
        features, pre, weights, post = ctx.saved_tensors
        values, angles = ctx.values, ctx.angles
        by_post, by_post_bias = by_logits.t() @ values, by_logits.sum(0)
        by_value = by_logits @ post
        if ctx.relu:
            by_value = aten.threshold_backward.default(by_value, values, 0)
        numbers = weights.detach().numpy()
        states, ctx.states = ctx.states, None  # turned back in place: a second pass recomputes
        if states is None:
            _, states = run_forward(ctx.program, angles, numbers, keep=True)
        by_angles, by_weights = map(
            torch.from_numpy,
            run_backward(ctx.program, angles, numbers, states, by_value.contiguous().numpy()),
        )
        by_bent = aten.tanh_backward.default(by_angles, ctx.bent)
        if ctx.scale != 1.0:
            by_bent.mul_(ctx.scale)
        by_features = by_bent @ pre if ctx.needs_input_grad[3] else None
        by_pre, by_pre_bias = by_bent.t() @ features, by_bent.sum(0)
        head = by_pre, by_pre_bias, by_weights, by_post, by_post_bias
        return None, None, None, by_features, *head
