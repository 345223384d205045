"""One process at a time in a run directory.

The lock belongs to the process, not to the file: when the process dies, however it dies, the
system releases it. The file only says who holds it.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from qgraft.errors import RunError

LOCK_FILE = ".lock"

# Files locked by this process, by their folders; a process may open its own run again.
_held: dict[Path, int] = {}


@contextmanager
def unlocked_on_error(folder: Path) -> Iterator[None]:
    """Lock `folder` and release it again where the block fails."""
    lock_folder(folder)
    try:
        yield
    except BaseException:
        unlock_folder(folder)
        raise


def lock_folder(folder: Path) -> None:
    """Lock `folder` for this process until `unlock_folder` or the end of the process.

    Where the file system knows no locks the folder stays unguarded.

    Raises:
        RunError: another process holds the lock; the message names it.
    """
    place, path = folder.resolve(), folder / LOCK_FILE
    if place in _held:
        if path.exists() and os.path.samestat(path.stat(), os.fstat(_held[place])):
            return
        unlock_folder(folder)  # the folder was removed and made again
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = _holder(handle)
        os.close(handle)
        raise RunError(
            f"{folder} is in use by {holder}; wait for it, stop it, or choose another --out"
        ) from None
    except OSError:
        os.close(handle)
        return
    _held[place] = handle
    since = time.strftime("%Y-%m-%d %H:%M:%S %z")
    facts = {"pid": os.getpid(), "host": socket.gethostname(), "since": since}
    os.ftruncate(handle, 0)
    os.pwrite(handle, json.dumps(facts).encode(), 0)


def is_locked(folder: Path) -> bool:
    """Tell whether a process holds the lock on `folder`, without keeping others from taking it.

    A file without a name was released; only one that a dead process may have left is tried.
    """
    try:
        handle = os.open(folder / LOCK_FILE, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        facts = os.fstat(handle)
        if not stat.S_ISREG(facts.st_mode) or not facts.st_size:
            return False
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        os.close(handle)
    return False


def unlock_folder(folder: Path) -> None:
    """Release the lock of this process on `folder`, if it has one."""
    handle = _held.pop(folder.resolve(), None)
    if handle is not None:
        os.ftruncate(handle, 0)
        os.close(handle)


def _holder(handle: int) -> str:
    try:
        facts = json.loads(os.pread(handle, 1000, 0))
        return f"process {facts['pid']} on {facts['host']} since {facts['since']}"
    except (ValueError, KeyError, TypeError):
        return "another process"  # which has not written its name yet
