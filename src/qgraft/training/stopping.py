"""Ctrl-C and SIGTERM as an orderly end: at once where nothing is lost, else after the step.

Inside `stop_on_signals` either signal raises `Stopped`. A training holds it back while a step is
under way, stores where it stands and then raises it itself. A second signal never waits.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stopped(BaseException):
    """A signal asked the program to end.

    Attributes:
        signal: its number; a shell expects the exit code 128 + signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.signal = number


@dataclass
class _State:
    asked: int = 0
    held: bool = False


_state = _State()  # one for the process, as signals are


@contextmanager
def stop_on_signals() -> Iterator[None]:
    """Let SIGINT and SIGTERM raise `Stopped` in the block; for the main thread only."""

    def ask(number: int, frame: object) -> None:
        again, _state.asked = bool(_state.asked), number
        if again or not _state.held:
            raise Stopped(number)

    before = {number: signal.signal(number, ask) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        _state.asked, _state.held = 0, False


@contextmanager
def stop_held_back() -> Iterator[None]:
    """Let a stop in the block wait for `stop_if_asked`, so that no step is cut in two."""
    with _holding(True):
        yield


@contextmanager
def stop_at_once() -> Iterator[None]:
    """Undo `stop_held_back` for a block that changes nothing worth keeping."""
    with _holding(False):
        stop_if_asked()
        yield


@contextmanager
def _holding(held: bool) -> Iterator[None]:
    before, _state.held = _state.held, held
    try:
        yield
    finally:
        _state.held = before


def ask_to_stop(number: int) -> None:
    """Let the next `stop_if_asked` raise, as a signal of this number would."""
    _state.asked = number


def stop_asked() -> bool:
    """Tell whether a signal has asked to end; any thread may ask."""
    return bool(_state.asked)


def stop_if_asked() -> None:
    """Raise `Stopped` where a signal has asked to end."""
    if _state.asked:
        raise Stopped(_state.asked)
