"""Every random stream is a pure function of (seed, purpose, index).

Nothing in qgraft draws from a global generator that somebody else may have moved, so an
interrupted run continues to the same numbers and two runs of one configuration agree.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch


def derive(seed: int, purpose: str, *index: int) -> int:
    """Return a 63-bit seed that depends on all arguments and on nothing else."""
    text = ":".join([str(seed), purpose, *map(str, index)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1


def numpy_rng(seed: int, purpose: str, *index: int) -> np.random.Generator:
    """Return the NumPy generator of one stream."""
    return np.random.default_rng(derive(seed, purpose, *index))


@contextmanager
def torch_stream(seed: int, purpose: str, *index: int) -> Iterator[torch.Generator]:
    """Run the block with torch's global generator set to one stream, then restore it.

    Layer initialisation and dropout can draw only from the global generator; this keeps them
    reproducible without disturbing the caller's own state.
    """
    import torch

    with torch.random.fork_rng():
        yield torch.manual_seed(derive(seed, purpose, *index))
