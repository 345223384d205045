"""Graft quantum heads onto trained vision networks.

The names below are loaded when they are first used, so `import qgraft` itself costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from qgraft.circuits.circuit import Circuit, Op, Param
    from qgraft.devices.torch_layer import TorchLayer
    from qgraft.errors import QgraftError
    from qgraft.grafting import GraftedModel, ParameterReport, graft
    from qgraft.heads.dense import DenseHead
    from qgraft.heads.dressed import DressedHead
    from qgraft.heads.frozen import FrozenHead
    from qgraft.heads.registry import build_head
    from qgraft.simulate.backends import expvals, probabilities
    from qgraft.simulate.statevector import state

__all__ = [
    "Circuit",
    "DenseHead",
    "DressedHead",
    "FrozenHead",
    "GraftedModel",
    "Op",
    "Param",
    "ParameterReport",
    "QgraftError",
    "TorchLayer",
    "build_head",
    "expvals",
    "graft",
    "probabilities",
    "state",
]

_HOME = {
    "Circuit": "circuits.circuit",
    "DenseHead": "heads.dense",
    "DressedHead": "heads.dressed",
    "FrozenHead": "heads.frozen",
    "GraftedModel": "grafting",
    "Op": "circuits.circuit",
    "Param": "circuits.circuit",
    "ParameterReport": "grafting",
    "QgraftError": "errors",
    "TorchLayer": "devices.torch_layer",
    "build_head": "heads.registry",
    "expvals": "simulate.backends",
    "graft": "grafting",
    "probabilities": "simulate.backends",
    "state": "simulate.statevector",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'qgraft' has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f"qgraft.{_HOME[name]}"), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
