"""Which coders a stream may be written with, by one name: recipes and the command line say `coder = NAME`."""

from __future__ import annotations

from typing import Final

from rarefy.entropy.stream import DEFAULT_CODERS, coders
from rarefy.errors import UsageError

ARCHIVE: Final = "archive"
"""The name that stands for all that may make a stream smallest, however slowly it decodes."""


def choice(name: str | None) -> tuple[str, ...]:
    """Names of the coders of which each stream takes the one that makes it shortest; `raw` is the first of them.

    name: a coder, ARCHIVE for all of them, or None for the default. Raises UsageError when there is no such coder.
    """
    if name is None:
        return DEFAULT_CODERS
    known = tuple(coders())
    if name == ARCHIVE:
        return known
    if name not in known:
        raise UsageError(f"no coder is called {name!r}", remedy=f"choose one of {', '.join(known)}, or {ARCHIVE}")
    return tuple(dict.fromkeys(("raw", name)))
