"""Memory that a thread keeps: to ask the system for half a megabyte again and again costs more than filling it."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


class Buffers(threading.local):
    """Each thread's own buffers, by what they are for."""

    def __init__(self) -> None:
        self._held: dict[str, NDArray[np.uint8]] = {}

    def take(self, role: str, size: int) -> NDArray[np.uint8]:
        """`size` bytes, not cleared, this thread's until it takes the same role again."""
        held = self._held.get(role)
        if held is None or held.size < size:
            held = self._held[role] = np.empty(size, np.uint8)
        return held[:size]
