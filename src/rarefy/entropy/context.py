"""Adaptive binary context coder: each bit of a symbol under a probability mixed from what its neighbours suggest.

A range coder (G. N. N. Martin, "Range encoding", 1979) codes the bits of a symbol, the highest first, as a path
through a binary tree whose nodes hold adaptive probabilities (D. Marpe et al., "Context-based adaptive binary
arithmetic coding in the H.264/AVC video compression standard", 2003). Five of them, each in its own context, are mixed
in the logistic domain by weights that learn online (M. Mahoney, "Adaptive weighing of context models for lossless data
compression", 2005; lpaq, 2007).

A quantized weight says little about its neighbour's value but much about its magnitude. So the contexts are: none; the
mean magnitude of the column so far; that times how much the row has lately exceeded its columns; the column's mean
with it; and the symbol to the left. All are running means in integers: docs/format.md says them exactly.

Every tile starts anew and knows nothing of the others, hence large tiles: a matrix is cut into runs of whole rows of
up to 2^20 symbols. There is no table in the file, so it is also the coder for tensors of a few hundred symbols.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Final, NamedTuple

import numpy as np

from rarefy.entropy.stream import TILE_BYTES, TILE_SYMBOLS
from rarefy.errors import FormatError
from rarefy.native import _kernels

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from rarefy.entropy.stream import Given

MAX_COLUMNS: Final = TILE_SYMBOLS


class Shape(NamedTuple):
    """depth: bits of a symbol, 1 to 8. columns: symbols in a row, 1 for a sequence without rows."""

    depth: int
    columns: int


def write_shape(shape: Shape) -> bytes:
    """The model as bytes: depth - 1 + 8 * columns, little-endian, in as few bytes as it takes."""
    number = shape.depth - 1 + 8 * shape.columns
    return number.to_bytes((number.bit_length() + 7) // 8, "little")


def read_shape(model: bytes) -> Shape:
    """What `write_shape` wrote. Raises FormatError for anything else."""
    number = int.from_bytes(model[:4], "little")
    shape = Shape(number % 8 + 1, number // 8)
    if not 1 <= shape.columns <= MAX_COLUMNS or write_shape(shape) != bytes(model):
        raise FormatError("the model of a context coder is malformed")
    return shape


def encode(symbols: NDArray[np.uint8], shape: Shape) -> bytes:
    """One tile: `symbols` (uint8, any shape, row-major, at most 2^20), the first of them in column 0.

    Raises ValueError for symbols of more than `shape.depth` bits.
    """
    return _kernels.context_encode(np.ascontiguousarray(symbols).reshape(-1), *shape)


def decode(data: bytes | memoryview, shape: Shape, out: NDArray[np.uint8]) -> None:
    """Fill `out` (uint8 (n,)) with the tile's symbols.

    Safe on hostile input: reads nothing outside `data`, uses at most 16 bytes a symbol and 2 MB. A tile that is
    accepted is the one encoding of what it decodes to; ValueError is raised for every other.
    """
    _kernels.context_decode(np.frombuffer(data, np.uint8), *shape, out)


class Context:
    """The coder `context`: no table, slow, smallest."""

    ID: ClassVar[int] = 3

    def estimate(self, symbols: NDArray[np.uint8], given: Given = None) -> float:
        """By coding: all of it, or the first tile of several."""
        if symbols.size == 0:
            return 0.0
        model = self.fit(symbols)
        first = symbols.reshape(-1)[: self.tile_symbols(model, symbols)]
        coded = len(self.encode(first, model)) * symbols.size / first.size
        return 8 * (len(model) + coded)

    def fit(self, symbols: NDArray[np.uint8], given: Given = None) -> bytes:
        depth = max(int(symbols.max()) if symbols.size else 0, 1).bit_length()
        columns = int(symbols.shape[-1]) if symbols.ndim > 1 and symbols.size else 1
        return write_shape(Shape(depth, columns if columns <= MAX_COLUMNS else 1))

    def tile_symbols(self, model: bytes, symbols: NDArray[np.uint8], given: Given = None) -> int:
        """Whole rows, as many as fit; of a sequence without rows, from which less is learnt, about TILE_BYTES."""
        columns = read_shape(model).columns
        rows = max(1, symbols.size // columns)
        most = TILE_SYMBOLS // columns
        if columns == 1:
            most = min(most, max(1, int(symbols.size * 8 * TILE_BYTES / max(_entropy_bits(symbols), 1))))
        tiles = -(-rows // most)
        return -(-rows // tiles) * columns

    def encode(self, symbols: NDArray[np.uint8], model: bytes, given: Given = None) -> bytes:
        return encode(symbols, read_shape(model))

    def decode(self, data: bytes | memoryview, model: bytes, out: NDArray[np.uint8], given: Given = None) -> None:
        try:
            decode(data, read_shape(model), out)
        except ValueError as error:
            raise FormatError("a context tile is malformed", str(error)) from error


def _entropy_bits(symbols: NDArray[np.uint8]) -> float:
    """Of the symbols as independent draws."""
    counts = np.bincount(symbols.reshape(-1), minlength=256)
    used = counts[counts > 0]
    return float(used @ (np.log2(max(symbols.size, 1)) - np.log2(used)))


CODER = Context()
