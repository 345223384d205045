"""The four transfer schemes as one idea (Mari et al., arXiv 1912.08278).

A network trained on one task loses its last layers, what remains becomes a trunk, and a new head is
trained on another task. Trunk and head are each classical or quantum: CC, CQ, QC, QQ.
"""

from __future__ import annotations

import copy
from typing import Any, Protocol

from torch import Tensor, nn

from qgraft.errors import ModelError
from qgraft.grafting import GraftedModel
from qgraft.heads.dressed import DressedHead
from qgraft.heads.photonic import PhotonicLayers
from qgraft.heads.qcnn import QcnnHead

QUANTUM = (DressedHead, QcnnHead, PhotonicLayers)


class Layers(Protocol):
    """A network that is a sequence of layers, such as `nn.Sequential` or `PhotonicLayers`."""

    def __len__(self) -> int: ...

    def __getitem__(self, part: slice, /) -> Any: ...


class Transfer(GraftedModel):
    """The first layers of a trained network, frozen or fine-tuned, under a new head.

    With a frozen trunk compute `features` once and train `head` on them; a fine-tuned one is
    trained as a whole.

    Args:
        source: the trained network; it is not changed.
        keep: how many of its layers are kept.
        target_head: takes what the last kept layer gives.
        fine_tune: train the trunk too.

    Raises:
        ModelError: the network cannot be cut there.
    """

    def __init__(
        self, source: Layers, keep: int, target_head: nn.Module, *, fine_tune: bool = False
    ) -> None:
        if not isinstance(source, nn.Module) or not hasattr(source, "__getitem__"):
            raise ModelError(
                f"transfer needs a network that is a sequence of layers, got "
                f"{type(source).__name__}; cut other networks with qgraft.graft"
            )
        if isinstance(keep, bool) or not isinstance(keep, int) or not 0 <= keep <= len(source):
            raise ModelError(f"keep={keep!r}: this network has {len(source)} layers to keep")
        trunk = copy.deepcopy(source[:keep])
        n_source, n_trunk = (sum(p.numel() for p in m.parameters()) for m in (source, trunk))
        super().__init__(trunk, target_head, removed=n_source - n_trunk, kept_dense=0)
        self.fine_tune = fine_tune
        self.trunk.requires_grad_(fine_tune)

    def train(self, mode: bool = True) -> Transfer:
        """Switch the head, and a trunk that is fine-tuned, between training and evaluation."""
        super().train(mode)
        self.trunk.train(mode and self.fine_tune)
        return self

    def features(self, images: Tensor) -> Tensor:
        """Return what the last kept layer gives: features, or kets `(batch, ...)`."""
        return self.trunk(images)

    @property
    def scheme(self) -> str:
        """CC, CQ, QC or QQ: what the trunk is, then what the head is."""
        return _letter(self.trunk) + _letter(self.head)


def _letter(network: nn.Module) -> str:
    return "Q" if any(isinstance(module, QUANTUM) for module in network.modules()) else "C"
