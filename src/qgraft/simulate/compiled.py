"""Ahead of time in effect: kernels are compiled once and kept on disk.

The folder is `$NUMBA_CACHE_DIR` or `~/.cache/qgraft`, with a sub-folder for every version of the
sources: Numba itself would miss a change in a function that another one calls.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from numba import njit
from numba.core import config

settings: Any = config
SOURCES = ("compiled", "lanes", "lowering", "slots", "product", "readout", "kernels")


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return `function` compiled without the interpreter lock, from disk when it is there.

    Where no folder can be written to, every process compiles anew.
    """
    options = {"error_model": "numpy", "nogil": True}
    before = settings.CACHE_DIR
    settings.CACHE_DIR = _folder()
    try:
        return njit(cache=True, **options)(function)
    except RuntimeError:
        return njit(**options)(function)
    finally:
        settings.CACHE_DIR = before


def internal(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return `function` compiled for callers that are compiled themselves.

    It gets no entry point for Python, which takes a fifth of the time of a first compilation.
    """
    options: Any = {"no_cpython_wrapper": True, "no_cfunc_wrapper": True}
    return njit(error_model="numpy", **options)(function)


@cache
def _folder() -> str:
    digest = hashlib.sha256()
    folder = Path(__file__).parent
    for path in [folder / f"{name}.py" for name in SOURCES]:
        digest.update(path.read_bytes())
    for path in sorted((folder.parent / "training").glob("head_*.py")):
        digest.update(path.read_bytes())
    base = os.environ.get("NUMBA_CACHE_DIR") or Path.home() / ".cache" / "qgraft"
    return str(Path(base) / f"kernels-{digest.hexdigest()[:16]}")
