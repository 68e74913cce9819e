"""Unsigned LEB128 integers below 2^63, and a reader that cannot be led outside its bytes."""

from __future__ import annotations

from typing import Final

from rarefy.errors import FormatError

_LIMIT: Final = 1 << 63


def varint(value: int) -> bytes:
    """`value`, 0 <= value < 2^63, as LEB128: seven bits a byte, lowest first, the top bit set on all but the last."""
    if not 0 <= value < _LIMIT:
        raise ValueError(f"{value} is outside 0..2^63-1")
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


class Cursor:
    """Reads `data` from `at` on. Every method raises FormatError at the end of the bytes."""

    def __init__(self, data: bytes | memoryview, what: str, at: int = 0) -> None:
        self.data = memoryview(data)
        self.end = len(data)
        self.what = what
        self.at = at

    @property
    def left(self) -> int:
        """Bytes not yet read."""
        return self.end - self.at

    def varint(self) -> int:
        """The next integer."""
        data, at, value, shift = self.data, self.at, 0, 0
        while at < self.end:
            byte = data[at]
            at += 1
            if byte < 0x80:
                self.at = at
                return value | byte << shift
            value |= (byte & 0x7F) << shift
            shift += 7
            if shift == 63:
                raise FormatError(f"{self.what} has an integer that is too large")
        raise FormatError(f"{self.what} ends early")

    def take(self, count: int) -> bytes:
        """The next `count` bytes."""
        start, end = self.at, self.at + count
        if end > self.end:
            raise FormatError(f"{self.what} ends early")
        self.at = end
        return bytes(self.data[start:end])
