"""Freed memory, handed back to the system."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable


def release() -> None:
    """Give back what is freed and still held by the C library's heap; nothing where that is not glibc.

    Its heap keeps blocks of up to 32 MB for reuse, so without this what a process holds is the sum of what its phases
    take, not the largest.
    """
    _trim()(0)


@functools.cache
def _trim() -> Callable[[int], object]:
    try:
        return ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):
        return lambda _: None
