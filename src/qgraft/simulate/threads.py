"""Share work out to the threads that torch already keeps.

After each of its own parallel regions torch leaves OpenMP's workers spinning for milliseconds. A
second pool of threads would compete with them for the cores, so the kernels run inside a parallel
region of the same library. Where torch was built with another one, a pool of our own takes over.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

Region = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


def on_threads(work: Callable[[int], None], threads: int) -> None:
    """Call `work(0) ... work(threads - 1)`, at the same time if they release the interpreter."""
    if threads == 1:
        return work(0)
    library = _openmp()
    if library is None:
        return _in_pool(work, threads)
    faults: list[BaseException] = []

    def member(_: Any) -> None:
        try:
            # Inside somebody else's region the team is a single thread, which does it all.
            for share in range(
                library.omp_get_thread_num(), threads, library.omp_get_num_threads()
            ):
                work(share)
        except BaseException as fault:  # must not unwind through C; raised again below
            faults.append(fault)

    library.GOMP_parallel(Region(member), None, threads, 0)
    if faults:
        raise faults[0]
    return None


def _in_pool(work: Callable[[int], None], threads: int) -> None:
    helpers = [_pool().submit(work, thread) for thread in range(1, threads)]
    try:
        work(0)
    finally:
        for helper in helpers:
            helper.result()


@lru_cache(maxsize=1)
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(thread_name_prefix="qgraft")


@lru_cache(maxsize=1)
def _openmp() -> Any:
    """Return the GNU OpenMP library that torch has loaded, or None."""
    path = Path(torch.__file__).parent / "lib" / "libgomp.so.1"
    try:
        library = ctypes.CDLL(str(path))
        return library if hasattr(library, "GOMP_parallel") else None
    except OSError:
        return None
