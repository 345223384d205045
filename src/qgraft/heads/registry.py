"""Heads by name."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from difflib import get_close_matches
from typing import Any

from torch import nn

from qgraft.errors import ConfigError
from qgraft.heads.controls import (
    MatchedHead,
    NoCircuitHead,
    frozen_circuit_head,
    no_entanglers_head,
    sine_head,
)
from qgraft.heads.dense import DenseHead
from qgraft.heads.dressed import DressedHead
from qgraft.heads.qcnn import QcnnHead

HEADS: dict[str, Callable[..., nn.Module]] = {
    "dense": DenseHead,
    "dressed": DressedHead,
    "qcnn": QcnnHead,
    "matched": MatchedHead,
    "matched-sine": sine_head,
    "frozen-circuit": frozen_circuit_head,
    "no-entanglers": no_entanglers_head,
    "no-circuit": NoCircuitHead,
}


def build_head(name: str, n_features: int, n_classes: int, **options: Any) -> nn.Module:
    """Build the head `name` for features `(batch, n_features)` and `n_classes` logits.

    Raises:
        ConfigError: no such head or no such option of it.
        ModelError: the head cannot be built from these options.
    """
    _check_known("head", name, list(HEADS))
    builder = HEADS[name]
    known = _options(builder)
    for option in options:
        _check_known(f"option of head {name!r}:", option, known)
    for what, value in (("n_features", n_features), ("n_classes", n_classes)):
        if not isinstance(value, int) or value < 1:
            raise ConfigError(f"{what} must be a positive integer, got {value!r}")
    return builder(n_features, n_classes, **options)


def _options(builder: Callable[..., nn.Module]) -> list[str]:
    """Return the options of a builder; one with `**dressed` takes those of a dressed head too."""
    parameters = list(inspect.signature(builder).parameters.values())[2:]
    own = [p.name for p in parameters if p.kind is not p.VAR_KEYWORD]
    return own if len(own) == len(parameters) else own + _options(DressedHead)


def takes_dressed_options(name: str) -> bool:
    """Tell whether a head is built with the options of a dressed head."""
    return name in HEADS and set(_options(DressedHead)) <= set(_options(HEADS[name]))


def _check_known(what: str, value: str, known: list[str]) -> None:
    if value not in known:
        close = get_close_matches(str(value), known, n=1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        raise ConfigError(f"unknown {what} {value!r}; {hint}known: {', '.join(known)}")
