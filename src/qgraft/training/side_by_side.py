"""Train several networks of one shape as one: a step costs little more than that of a single one.

Their parameters are stacked and every network sees samples of its own, so with a loss that sums
over the networks each takes exactly the steps it would take alone; only the random masks are drawn
for all of them together.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap

from qgraft.training.loop import Loss, Samples, as_float


class SideBySide(nn.Module):
    """Several networks as one module.

    Args:
        members: networks of one shape; their weights are copied.
    """

    def __init__(self, members: Sequence[nn.Module]) -> None:
        super().__init__()
        self._one = (members[0],)  # in a tuple: its own parameters are not trained
        stacked, buffers = stack_module_state(list(members))
        self._names = tuple(stacked)
        self.stacked = nn.ParameterList([nn.Parameter(p.detach()) for p in stacked.values()])
        self._buffers_of = buffers

    def forward(self, inputs: Tensor) -> Tensor:
        """Map inputs `(batch, n_members, ...)` to outputs `(batch, n_members, ...)`.

        In evaluation mode inputs `(batch, ...)` go to every network.
        """
        one = self._one[0].train(self.training)

        def call(parameters: Any, buffers: Any, part: Tensor) -> Tensor:
            return functional_call(one, {**parameters, **buffers}, (part,))

        parameters = dict(zip(self._names, self.stacked, strict=True))
        in_dims = (0, 0, 1 if self.training else None)
        mapped = vmap(call, in_dims=in_dims, out_dims=1, randomness="different")
        return mapped(parameters, self._buffers_of, inputs)

    def member_state(self, number: int) -> dict[str, Tensor]:
        """Return the weights of one network under their own names."""
        pairs = zip(self._names, self.stacked, strict=True)
        own = {name: stacked[number].detach().clone() for name, stacked in pairs}
        return own | {name: buffer[number].clone() for name, buffer in self._buffers_of.items()}


def samples_for_all(samples: Samples, orders: Sequence[np.ndarray]) -> Samples:
    """Return inputs `(n, n_members, ...)` and labels `(n, n_members)`, one order per network.

    Images become floats in 0..1 here, once, which a step on a single image would spend most of
    its time on.
    """
    index = torch.from_numpy(np.stack(orders, axis=1))
    inputs = as_float(samples.inputs).contiguous()
    return Samples(inputs[index], samples.labels[index])


def loss_of_all(loss: Loss, orders: Sequence[np.ndarray]) -> Loss:
    """Return the sum over all networks of a loss that is a mean over samples."""
    places = torch.from_numpy(np.stack(orders, axis=1))

    def total(epoch: int, logits: Tensor, labels: Tensor, index: Tensor) -> Tensor:
        own = places[index].flatten()
        return len(orders) * loss(epoch, logits.flatten(0, 1), labels.flatten(), own)

    return total
