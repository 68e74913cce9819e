"""Progress on stderr: bars in a terminal, a line every few seconds elsewhere."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.text import Text

from rarefy.report.console import stderr
from rarefy.report.words import seconds

if TYPE_CHECKING:
    from rich.console import Console

EVERY = 3.0
"""Seconds between two plain lines."""


@dataclass
class Track:
    """One stretch of work. total: 0 where it is not known; first: what was done before it began; ticked: when it last
    moved."""

    what: str
    total: int
    done: int
    first: int
    began: float
    ticked: float

    @classmethod
    def starting(cls, what: str, total: int, done: int, now: float) -> Track:
        """A new stretch."""
        return cls(what, total, done, done, now, now)

    def continues(self, total: int, done: int) -> bool:
        """Whether a task is a further part of this stretch: parts of one share their total and begin past zero."""
        return self.total == total > 0 and done > self.first

    def advance(self, units: int, now: float) -> None:
        """Some more is done."""
        self.done += units
        self.ticked = now

    def left(self, now: float) -> float | None:
        """Seconds to come at the pace so far, counting down between two steps; None where nothing tells."""
        moved, taken = self.done - self.first, self.ticked - self.began
        if not self.total or moved <= 0 or taken < 1 or self.done >= self.total:
            return None
        return max(0.0, taken / moved * (self.total - self.done) - (now - self.ticked))

    def figures(self, now: float) -> str:
        """`42 %, 31 s, about 43 s left`."""
        spent, parts = now - self.began, []
        if self.total and self.done:
            parts.append(f"{100 * min(self.done, self.total) // self.total} %")
        if spent >= 1:
            parts.append(seconds(spent))
        left = self.left(now)
        if left is not None:
            parts.append(f"about {seconds(max(1, round(left)))} left")
        return ", ".join(parts)


class Lines:
    """Progress for logs: a line when work begins, at most one each `EVERY` seconds after it, one at the end."""

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        self._console, self._clock = console, clock
        self._track: Track | None = None
        self._last = -EVERY

    @contextlib.contextmanager
    def task(self, what: str, total: int, done: int = 0) -> Iterator[Callable[[int], None]]:
        track = self._begin(what, total, done)
        self._say(track)

        def advance(units: int) -> None:
            track.advance(units, self._clock())
            self._say(track)

        yield advance
        if 0 < track.total <= track.done:
            self._track = None

    def note(self, line: str) -> None:
        self._console.print(line, soft_wrap=True)

    def _begin(self, what: str, total: int, done: int) -> Track:
        if self._track is None or not self._track.continues(total, done):
            self._track = Track.starting(what, total, done, self._clock())
            self._last = -EVERY
        self._track.what, self._track.done = what, done
        return self._track

    def _say(self, track: Track) -> None:
        now = self._clock()
        if now - self._last < (1 if 0 < track.total <= track.done else EVERY):
            return
        self._last = now
        figures = track.figures(now)
        self._console.print(f"{track.what}: {figures}" if figures else track.what, soft_wrap=True)


class Bars:
    """Progress in a terminal: one live bar, gone when the work is done.

    Work of unknown length stays until more begins: what follows it may take a while before it says so.
    """

    def __init__(self, console: Console) -> None:
        from rich.progress import BarColumn, Progress, ProgressColumn, SpinnerColumn, Task, TextColumn
        from rich.table import Column

        class Figures(ProgressColumn):
            def render(self, task: Task) -> Text:
                track: Track = task.fields["track"]
                return Text(track.figures(time.monotonic()), style="dim")

        # stdout is data: it must never pass through a console that writes to stderr.
        self._bars = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False, table_column=Column(no_wrap=True, overflow="ellipsis")),
            BarColumn(bar_width=30, complete_style="cyan", finished_style="cyan", pulse_style="cyan"),
            Figures(table_column=Column(no_wrap=True)),
            console=console,
            transient=True,
            redirect_stdout=False,
        )
        self._track: Track | None = None

    @contextlib.contextmanager
    def task(self, what: str, total: int, done: int = 0) -> Iterator[Callable[[int], None]]:
        if self._track is None or not self._track.continues(total, done):
            self._clear()
            self._track = Track.starting(what, total, done, time.monotonic())
            self._bars.start()
            self._bars.add_task(what, total=total or None, completed=done, track=self._track)
        track = self._track
        track.done = done
        bar = self._bars.task_ids[-1]
        self._bars.update(bar, description=what, completed=done)

        def advance(units: int) -> None:
            track.advance(units, time.monotonic())
            self._bars.update(bar, completed=track.done)

        yield advance
        if 0 < track.total <= track.done:
            self._clear()

    def note(self, line: str) -> None:
        self._bars.console.print(line, soft_wrap=True)

    def _clear(self) -> None:
        self._track = None
        for bar in self._bars.task_ids:
            self._bars.remove_task(bar)
        self._bars.stop()


@contextlib.contextmanager
def showing() -> Iterator[Bars | Lines]:
    """Progress on stderr while the block runs; nothing of a bar is left behind, however it ends."""
    console = stderr()
    if not console.is_terminal or console.is_dumb_terminal:
        yield Lines(console)
        return
    bars = Bars(console)
    try:
        yield bars
    finally:
        bars._clear()
