"""The two streams: data to stdout, everything else to stderr."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from rich.console import Console

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rich.console import RenderableType

WIDE = 400
"""Columns where nobody looks: a pipe's lines are never cut."""


def stdout() -> Console:
    """Where answers go."""
    return _console(stderr=False)


def stderr() -> Console:
    """Where all else goes."""
    return _console(stderr=True)


def _console(*, stderr: bool) -> Console:
    console = Console(stderr=stderr, highlight=False, markup=False, emoji=False)
    if not console.is_terminal:
        console.width = WIDE
    return console


def note(line: str) -> None:
    """One line beside the answer."""
    stderr().print(line, style="dim")


def warn(line: str) -> None:
    """One line that the user should not miss."""
    from rich.text import Text

    stderr().print(Text.assemble(("warning: ", "yellow"), line))


def show(answer: RenderableType) -> None:
    """An answer on stdout; in a pipe without the blanks that fill a table's columns."""
    console = stdout()
    if console.is_terminal:
        console.print(answer)
        return
    with console.capture() as captured:
        console.print(answer)
    print("\n".join(line.rstrip() for line in captured.get().splitlines()))


def print_json(value: Mapping[str, Any] | list[Any]) -> None:
    """One JSON value and nothing else, on stdout."""
    print(json.dumps(value, indent=2, allow_nan=False))
