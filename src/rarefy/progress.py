"""What long work says while it runs. The command line shows it; a library call is silent unless given one."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Protocol


class Progress(Protocol):
    """Shows tasks and notes."""

    def task(self, what: str, total: int, done: int = 0) -> contextlib.AbstractContextManager[Callable[[int], None]]:
        """A piece of work of `total` units; the value is called with the units just done."""
        ...

    def note(self, line: str) -> None:
        """One line that the user should see."""
        ...


class Silent:
    """Says nothing, keeps the notes."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    @contextlib.contextmanager
    def task(self, what: str, total: int, done: int = 0) -> Iterator[Callable[[int], None]]:
        yield lambda _units: None

    def note(self, line: str) -> None:
        self.notes.append(line)
