"""The Huffman kernels in NumPy: slow, plain, and equal to them byte for byte."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

NO_CODE = 255


def canonical(lengths: NDArray[np.uint8]) -> dict[str, int]:
    """The symbol of each code, codes as strings of 0 and 1: by length, then by symbol."""
    code, before, codes = 0, 0, {}
    for length, symbol in sorted((n, s) for s, n in enumerate(lengths.tolist()) if n != NO_CODE):
        code <<= length - before
        codes[f"{code:0{length}b}" if length else ""] = symbol
        code, before = code + 1, length
    if code != 1 << before:
        raise ValueError("no complete prefix code")
    return codes


def encode(symbols: NDArray[np.uint8], lengths: NDArray[np.uint8]) -> bytes:
    """The codes in a row, the highest bit of a byte first, then zeros."""
    code_of = {symbol: code for code, symbol in canonical(lengths).items()}
    text = "".join(code_of[s] for s in symbols.tolist())
    return np.packbits(np.array([*text], dtype="U1") == "1").tobytes()


def decode(data: bytes, n: int, lengths: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The inverse; ValueError when `data` is not exactly n codes and less than a byte of zeros."""
    codes = canonical(lengths)
    text = "".join(map(str, np.unpackbits(np.frombuffer(data, np.uint8))))
    out, at = np.empty(n, np.uint8), 0
    for i in range(n):
        end = at
        while text[at:end] not in codes:
            end += 1
            if end > len(text):
                raise ValueError("truncated")
        out[i] = codes[text[at:end]]
        at = end
    if len(text) - at >= 8 or "1" in text[at:]:
        raise ValueError("bits left over")
    return out
