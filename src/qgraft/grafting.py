"""Cut a trained network, freeze what is kept, and put a small trainable head in its place."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from qgraft.circuits.circuit import Circuit, inert_weights
from qgraft.errors import ModelError
from qgraft.heads.dressed import DressedHead
from qgraft.heads.registry import build_head

Head = str | nn.Module | Callable[[int, int], nn.Module]


@dataclass(frozen=True)
class ParameterReport:
    """Where the parameters of a grafted network are, and how many the graft saves.

    `head_pre`, `head_circuit` and `head_post` are None for heads that are not dressed circuits;
    `inert` counts circuit weights that can have no effect.
    """

    kept_trunk: int
    kept_dense: int
    removed: int
    head_pre: int | None
    head_circuit: int | None
    head_post: int | None
    head: int
    total_before: int
    total_after: int
    trainable: int
    inert: int

    @property
    def reduction_block(self) -> float | None:
        """Share of the replaced block that is saved, arXiv 2409.00228 eq. (7).

        None where the replaced block had no parameters.
        """
        return None if not self.removed else (self.removed - self.head) / self.removed

    @property
    def reduction_whole(self) -> float:
        """Share of the whole model that is saved, as printed in Table III of 2409.00228."""
        return (self.total_before - self.total_after) / self.total_before

    @property
    def trainable_share(self) -> float:
        """Trainable parameters relative to those of the original model."""
        return self.trainable / self.total_before

    def __str__(self) -> str:
        block = self.reduction_block
        parts = {"pre-net": self.head_pre, "circuit": self.head_circuit, "post-net": self.head_post}
        rows = [
            ("kept, trunk", f"{self.kept_trunk:,}"),
            ("kept, dense layers", f"{self.kept_dense:,}"),
            ("removed", f"{self.removed:,}"),
            ("head", f"{self.head:,}"),
            *((f"  {name}", f"{n:,}") for name, n in parts.items() if n is not None),
            ("total before", f"{self.total_before:,}"),
            ("total after", f"{self.total_after:,}"),
            ("trainable", f"{self.trainable:,} ({self.trainable_share:.2%} of before)"),
            ("inert circuit weights", f"{self.inert:,}"),
            ("reduction, replaced block", "-" if block is None else f"{block:.2%}"),
            ("reduction, whole model", f"{self.reduction_whole:.2%}"),
        ]
        return "\n".join(f"{name:<26}{value:>12}" for name, value in rows)


class GraftedModel(nn.Module):
    """A frozen trunk and a trainable head; `graft` builds it.

    Attributes:
        trunk: the kept part; its parameters are frozen and it never leaves eval mode.
        head: features `(batch, n_features)` to logits.
    """

    def __init__(self, trunk: nn.Module, head: nn.Module, *, removed: int, kept_dense: int) -> None:
        super().__init__()
        self.trunk = trunk.requires_grad_(False).eval()
        self.head = head
        self._removed, self._kept_dense = removed, kept_dense

    def train(self, mode: bool = True) -> GraftedModel:
        """Switch the head between training and evaluation; the trunk stays in evaluation."""
        super().train(mode)
        self.trunk.eval()
        return self

    def features(self, images: Tensor) -> Tensor:
        """Return the trunk's features `(batch, n_features)`."""
        return self.trunk(images).flatten(1)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits `(batch, n_classes)`."""
        return self.head(self.features(images))

    def parameter_report(self) -> ParameterReport:
        """Count the parameters of every part."""
        trunk, head = _count(self.trunk), _count(self.head)
        dressed = self.head if isinstance(self.head, DressedHead) else None
        circuit = getattr(self.head, "circuit", None)
        return ParameterReport(
            kept_trunk=trunk - self._kept_dense,
            kept_dense=self._kept_dense,
            removed=self._removed,
            head_pre=_count(dressed.pre) if dressed else None,
            head_circuit=dressed.weights.numel() if dressed else None,
            head_post=_count(dressed.post) if dressed else None,
            head=head,
            total_before=trunk + self._removed,
            total_after=trunk + head,
            trainable=sum(p.numel() for p in self.parameters() if p.requires_grad),
            inert=len(inert_weights(circuit)) if isinstance(circuit, Circuit) else 0,
        )


def graft(
    model: nn.Module,
    replace_last: int | Literal["all"] | None = None,
    *,
    replace: str | None = None,
    head: Head = "dressed",
    n_classes: int | None = None,
    sample: Tensor | None = None,
    **head_options: Any,
) -> GraftedModel:
    """Replace the last layers of a trained classifier by a head; `model` itself is not changed.

    Args:
        model: any classifier; for `replace_last` its dense layers must lie in `nn.Sequential`.
        replace_last: replace everything from the k-th last dense layer on, or `"all"` of them.
        replace: name of the last module instead, such as `"fc"` or `"classifier.1"`.
        head: a name in `qgraft.heads.registry.HEADS`, a module, or a function
            `(n_features, n_classes) -> module`.
        n_classes: number of logits; by default that of the layers replaced.
        sample: a batch of images; with it the cut is checked by running the trunk, and the
            width of the features need not be known from a dense layer.
        **head_options: options of a head given by name.

    Raises:
        ModelError: the model cannot be cut there.
        ConfigError: no such head or option.
    """
    if not isinstance(model, nn.Module):
        raise ModelError(f"graft needs a torch.nn.Module, got {type(model).__name__}")
    if (replace is None) == (replace_last is None):
        raise ModelError("give either replace_last=k (or 'all') or replace='module name'")
    dense = _dense_stack(model)
    trunk = copy.deepcopy(model)
    if replace is not None:
        removed = _cut_named(trunk, replace)
    else:
        removed = _cut_at(trunk, _kth_last(dense, replace_last))
    if sample is not None:
        _check_cut(model, trunk, removed, sample)
    linears = [m for part in removed for m in part.modules() if isinstance(m, nn.Linear)]
    n_features = _n_features(trunk, linears, sample)
    if n_classes is None:
        if not linears:
            raise ModelError("no dense layer is replaced; give n_classes")
        n_classes = linears[-1].out_features
    kept = {name for name, _ in trunk.named_modules()}
    return GraftedModel(
        trunk,
        _make_head(head, n_features, n_classes, head_options),
        removed=_count(model) - _count(trunk),
        kept_dense=sum(_count(model.get_submodule(n)) for n in dense if n in kept and n != replace),
    )


def removed_layers(model: nn.Module, replace_last: int | Literal["all"]) -> nn.Sequential:
    """Return a copy of the layers that `graft(model, replace_last)` replaces, in order.

    Raises:
        ModelError: the model cannot be cut there.
    """
    return nn.Sequential(
        *_cut_at(copy.deepcopy(model), _kth_last(_dense_stack(model), replace_last))
    )


def _count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def _dense_stack(model: nn.Module) -> list[str]:
    """Return the names of the dense layers after the last convolution."""
    names: list[str] = []
    for name, module in model.named_modules():
        if isinstance(module, _ConvNd):
            names = []
        elif isinstance(module, nn.Linear):
            names.append(name)
    return names


def _kth_last(dense: list[str], k: int | str | None) -> str:
    if not dense:
        raise ModelError("the model has no dense layer after its last convolution; use replace=")
    if k == "all":
        return dense[0]
    if not isinstance(k, int) or isinstance(k, bool) or not 1 <= k <= len(dense):
        raise ModelError(
            f"replace_last={k!r}: this model has {len(dense)} dense layers; "
            f"give 1 to {len(dense)}, or 'all'"
        )
    return dense[-k]


def _cut_at(trunk: nn.Module, name: str) -> list[nn.Module]:
    """Remove everything from module `name` on, in place, and return it."""
    removed: list[nn.Module] = []
    parent, path = trunk, name.split(".")
    for depth, key in enumerate(path):
        children = list(parent.named_children())
        at = [child for child, _ in children].index(key)
        is_target = depth == len(path) - 1
        if isinstance(parent, nn.Sequential):
            tail = children[at if is_target else at + 1 :]
            removed[:0] = [module for _, module in tail]
            for child, _ in tail:
                delattr(parent, child)
        elif at != len(children) - 1:
            raise ModelError(
                f"{'.'.join(path[: depth + 1])!r} is followed by {children[at + 1][0]!r} outside "
                "of an nn.Sequential, so what runs after it is unknown; "
                "name the last module with replace= instead"
            )
        elif is_target:
            removed[:0] = [children[at][1]]
            setattr(parent, key, nn.Identity())
        parent = children[at][1]
    return removed


def _cut_named(trunk: nn.Module, name: str) -> list[nn.Module]:
    """Replace module `name` by the identity, in place, and return it."""
    names = [known for known, _ in trunk.named_modules() if known]
    if name not in names:
        close = get_close_matches(name, names, n=1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        raise ModelError(
            f"the model has no module {name!r}; {hint}"
            f"its children are {', '.join(child for child, _ in trunk.named_children())}"
        )
    above, _, key = name.rpartition(".")
    parent = trunk.get_submodule(above)
    last = list(parent.named_children())[-1][0]
    if isinstance(parent, nn.Sequential) and last != key:
        raise ModelError(f"{name!r} is followed by more layers up to {last!r}; use replace_last=")
    removed = parent.get_submodule(key)
    setattr(parent, key, nn.Identity())
    return [removed]


def _n_features(trunk: nn.Module, linears: list[nn.Linear], sample: Tensor | None) -> int:
    if sample is None:
        if not linears:
            raise ModelError("no dense layer is replaced; give a sample batch of images")
        return linears[0].in_features
    return _run(trunk, sample)[0].numel()


def _run(module: nn.Module, sample: Tensor) -> Tensor:
    """Return the module's output for a sample, in evaluation mode."""
    with torch.no_grad():
        try:
            output = module.eval()(sample)
        except (IndexError, RuntimeError, TypeError, ValueError) as error:
            raise ModelError(f"the model cannot process the sample: {error}") from None
    if not isinstance(output, Tensor) or output.ndim < 2 or len(output) != len(sample):
        raise ModelError("the model must return one row per image of the sample")
    return output


def _check_cut(
    model: nn.Module, trunk: nn.Module, removed: list[nn.Module], sample: Tensor
) -> None:
    """Check on a sample that the trunk followed by the removed part is the model."""
    whole = _run(copy.deepcopy(model), sample)
    parts = _run(nn.Sequential(*copy.deepcopy(removed)), _run(trunk, sample))
    if parts.shape != whole.shape or not torch.allclose(parts, whole, 1e-4, 1e-5, equal_nan=True):
        raise ModelError(
            "the model does more after the replaced layers than its modules tell, such as a "
            "softmax or a reshape in forward; replace a module that is the last thing it does"
        )


def _make_head(head: Head, n_features: int, n_classes: int, options: dict[str, Any]) -> nn.Module:
    if isinstance(head, str):
        return build_head(head, n_features, n_classes, **options)
    if options:
        raise ModelError(f"options {sorted(options)} need a head given by name")
    module = head if isinstance(head, nn.Module) else head(n_features, n_classes)
    if not isinstance(module, nn.Module):
        raise ModelError(f"the head must be a torch.nn.Module, got {type(module).__name__}")
    return module
