"""Symbols as they are, for streams that no model makes smaller."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import numpy as np

from rarefy.entropy.stream import TILE_BYTES
from rarefy.errors import FormatError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from rarefy.entropy.stream import Given


class Raw:
    """A byte a symbol."""

    ID: ClassVar[int] = 0

    def estimate(self, symbols: NDArray[np.uint8], given: Given = None) -> float:
        return 8.0 * symbols.size

    def fit(self, symbols: NDArray[np.uint8], given: Given = None) -> bytes:
        return b""

    def tile_symbols(self, model: bytes, symbols: NDArray[np.uint8], given: Given = None) -> int:
        return TILE_BYTES

    def encode(self, symbols: NDArray[np.uint8], model: bytes, given: Given = None) -> bytes:
        return symbols.tobytes()

    def decode(self, data: bytes | memoryview, model: bytes, out: NDArray[np.uint8], given: Given = None) -> None:
        if len(data) != out.size:
            raise FormatError(f"a raw tile of {out.size} symbols has {len(data)} bytes")
        out[:] = np.frombuffer(data, np.uint8)


CODER = Raw()
