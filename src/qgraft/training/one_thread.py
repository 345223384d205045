"""Training on one core, so that its numbers do not depend on how many there are.

Convolutions, matrix products and batch norms of torch add up in another order when more threads
share them, and a trained network amplifies the last bit into another network. Studies use many
cores by training several models side by side instead.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch

_lock = threading.Lock()
_inside: list[int] = []  # the number of threads before, once for every block that is entered


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch compute on one core in the block.

    Blocks may nest and may overlap in several threads: the last one to end restores the number.
    """
    with _lock:
        _inside.append(_inside[0] if _inside else torch.get_num_threads())
        torch.set_num_threads(1)
    try:
        yield
    finally:
        with _lock:
            before = _inside.pop()
            if not _inside:
                torch.set_num_threads(before)
