"""What a study shows while it runs: a live bar with time left, or plain lines in a log."""

from __future__ import annotations

import time
from math import isclose
from types import TracebackType

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

PLAIN_EVERY_S = 10.0


def console(*, stderr: bool = False) -> Console:
    """Return a console, wide enough for tables where it is no terminal."""
    screen = Console(stderr=stderr, highlight=False)
    wide = Console(stderr=stderr, width=120, highlight=False)
    return screen if screen.is_terminal else wide


class Meter:
    """Show how much of the work is done; call it with (done, all work, note)."""

    def __init__(self, title: str) -> None:
        screen = Console(stderr=True, highlight=False)
        self._live = screen.is_terminal
        self._screen = screen if self._live else Console(stderr=True, width=160, highlight=False)
        self._bar = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(bar_width=24),
            TaskProgressColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(elapsed_when_finished=False),
            TextColumn("{task.fields[note]}"),
            console=self._screen,
            disable=not self._live,
            speed_estimate_period=60.0,
        )
        self._task = self._bar.add_task(title, total=None, note="")
        self._started: tuple[float, float] | None = None
        self._printed = float("-inf")

    def __enter__(self) -> Meter:
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.stop()

    def __call__(self, done: float, total: float, note: str) -> None:
        """Show the new state."""
        now = time.monotonic()
        if self._started is None:
            self._started = (now, done)
        if self._live:
            self._bar.update(self._task, completed=done, total=total, note=note)
        elif now - self._printed >= PLAIN_EVERY_S or isclose(done, total):
            self._printed = now
            since, before = self._started
            left = (now - since) * (total - done) / (done - before) if done > before else None
            eta = f", about {_duration(left)} left" if left is not None else ""
            self._screen.print(f"{100 * done / max(total, 1e-9):3.0f} % {note}{eta}")


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"
