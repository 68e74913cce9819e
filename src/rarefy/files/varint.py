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
        self.what = what
        self.at = at

    @property
    def left(self) -> int:
        """Bytes not yet read."""
        return len(self.data) - self.at

    def varint(self) -> int:
        """The next integer."""
        data, at, value = self.data, self.at, 0
        for shift in range(0, 63, 7):
            if at >= len(data):
                raise FormatError(f"{self.what} ends early")
            byte = data[at]
            at += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                self.at = at
                return value
        raise FormatError(f"{self.what} has an integer that is too large")

    def take(self, count: int) -> bytes:
        """The next `count` bytes."""
        if count > self.left:
            raise FormatError(f"{self.what} ends early")
        self.at += count
        return bytes(self.data[self.at - count : self.at])
