"""Bells of known scale: integers around zero under tables that a scale and a shape say, so that none is in the file.

The scale of a symbol follows from its side information where there is some (`entropy.bells` has the tables); the
stream is one of rANS whose table changes from symbol to symbol. Symbols are bytes read as int8. What a table has no
frequency for, and -128, leaves through one symbol, -128, and stands as a byte ahead of the stream. docs/format.md says
it exactly.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Final, NamedTuple

import numpy as np

from rarefy.entropy import rans
from rarefy.entropy.bells import ESCAPE, SCALES, K, code_lengths, escaping, tables
from rarefy.entropy.stream import TILE_BYTES
from rarefy.entropy.table import MAX_LANES_LOG2
from rarefy.errors import FormatError
from rarefy.native import _kernels

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from rarefy.entropy.stream import Given

GIVEN: Final = 44
"""Side information is in quarters of an octave, 0 to 43: index g says scale 2 g, plus the shift of the model."""


class Model(NamedTuple):
    """shape: d. shift: added to twice the side information; the scale itself where there is none. lanes: of a tile.
    escapes: whether any symbol does, so that tiles begin with those that do."""

    shape: int
    shift: int
    lanes: int
    escapes: bool


def write_model(model: Model) -> bytes:
    """Two bytes: shape + 8 log2(lanes) + 64 escapes, and the shift modulo 256."""
    return bytes([model.shape + 8 * (model.lanes.bit_length() - 1) + 64 * model.escapes, model.shift % 256])


def read_model(model: bytes) -> Model:
    """What `write_model` wrote. Raises FormatError for anything else."""
    if len(model) != 2 or model[0] >= 128 or model[0] // 8 % 8 > MAX_LANES_LOG2:
        raise FormatError("the model of a parametric coder is malformed")
    return Model(model[0] % 8, (model[1] ^ 128) - 128, 1 << model[0] // 8 % 8, model[0] >= 64)


def scales(shift: NDArray[np.int64] | int) -> NDArray[np.int64]:
    """The scale that each value of the side information says: (GIVEN, shifts)."""
    known: NDArray[np.int64] = np.clip(2 * np.arange(GIVEN)[:, None] + shift, 0, SCALES - 1)
    return known


def rows(model: Model) -> NDArray[np.uint16]:
    """The table of each value of the side information: (GIVEN, 256)."""
    freqs: NDArray[np.uint16] = tables()[model.shape, scales(model.shift)[:, 0]]
    return freqs


def encode(symbols: NDArray[np.uint8], model: Model, given: Given = None) -> bytes:
    """One tile of `symbols` (uint8 (n,)), `given` the scale index of each (0 where there is none).

    Raises ValueError for a scale index that is none, or symbols that escape under a model that says none do.
    """
    freqs = rows(model)
    lost = escaping(freqs)
    known = np.empty_like(symbols)
    told = np.zeros(symbols.shape, np.uint8) if given is None else given
    escaped = _kernels.escape(symbols, told, lost.view(np.uint8), ESCAPE, known)
    if escaped and not model.escapes:
        raise ValueError("symbols escape where the model says that none do")
    ahead = _count(len(escaped)) + escaped if model.escapes else b""
    if given is None:
        return ahead + rans.encode(known, freqs[0], K, model.lanes)
    return ahead + _kernels.rans_encode_given(known, given, freqs, K, model.lanes)


def decode(data: bytes | memoryview, model: Model, out: NDArray[np.uint8], given: Given = None) -> None:
    """Fill `out` (uint8 (n,)) with the tile's symbols.

    Safe on hostile input: reads nothing outside `data`, uses 16 KiB for each scale. A tile that is accepted is the one
    encoding of what it decodes to; ValueError is raised for every other.
    """
    freqs = rows(model)
    coded = np.frombuffer(data, np.uint8)
    escaped = coded[:0]
    if model.escapes:
        count, at = _read_count(coded[:3].tobytes())
        escaped, coded = coded[at : at + count], coded[at + count :]
    if given is None:
        _kernels.rans_decode(coded, freqs[0], K, model.lanes, out)
    else:
        _kernels.rans_decode_given(coded, given, freqs, K, model.lanes, out)
    places = np.flatnonzero(out == ESCAPE)
    if places.size != escaped.size:
        raise ValueError(f"{places.size} symbols escape, {escaped.size} are there")
    if not escaping(freqs)[0 if given is None else given[places], escaped].all():
        raise ValueError("a symbol escapes without need")
    out[places] = escaped


def _count(number: int) -> bytes:
    """A varint below 2^21, as docs/format.md has them."""
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    return bytes([*out, number])


def _read_count(data: bytes) -> tuple[int, int]:
    """What `_count` wrote at the start of `data`, and its bytes."""
    number = 0
    for i, byte in enumerate(data):
        number |= (byte & 127) << 7 * i
        if byte < 128:
            if i and not byte:
                break
            return number, i + 1
    raise ValueError("a count of escapes is malformed")


class Parametric:
    """The coder `parametric`: a bell for each scale, two bytes of model."""

    ID: ClassVar[int] = 4

    def estimate(self, symbols: NDArray[np.uint8], given: Given = None) -> float:
        if symbols.size == 0:
            return 0.0
        counts = _histogram(symbols, given)
        model = _best(counts)
        bits = _bits(counts, model)
        tiles = _tiles(bits)
        return 16 + bits + tiles * (32 * model.lanes + 8 * model.escapes)

    def fit(self, symbols: NDArray[np.uint8], given: Given = None) -> bytes:
        return write_model(_best(_histogram(symbols, given)))

    def tile_symbols(self, model: bytes, symbols: NDArray[np.uint8], given: Given = None) -> int:
        tiles = _tiles(_bits(_histogram(symbols, given), read_model(model)))
        return max(1, -(-symbols.size // tiles))

    def encode(self, symbols: NDArray[np.uint8], model: bytes, given: Given = None) -> bytes:
        return encode(_flat(symbols), read_model(model), None if given is None else _flat(given))

    def decode(self, data: bytes | memoryview, model: bytes, out: NDArray[np.uint8], given: Given = None) -> None:
        known = read_model(model)
        try:
            decode(data, known, out, given)
        except ValueError as error:
            raise FormatError("a parametric tile is malformed", str(error)) from error


def _flat(symbols: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.ascontiguousarray(symbols).reshape(-1)


def _histogram(symbols: NDArray[np.uint8], given: Given) -> NDArray[np.int64]:
    """Counts of symbols under each value of the side information: int64 (GIVEN, 256)."""
    counts = np.zeros((GIVEN, 256), np.int64)
    if given is None:
        counts[0] = rans.histogram(symbols)
    else:
        _kernels.histogram_given(_flat(symbols), _flat(given), counts)
    return counts


def _best(counts: NDArray[np.int64]) -> Model:
    """The model with which symbols of these counts are shortest."""
    used = np.flatnonzero(counts.any(axis=1))
    shifts = np.arange(-SCALES, SCALES)
    cost = np.einsum("gs,dts->dgt", counts[used].astype(np.float64), code_lengths(), optimize=True)
    bits = cost[:, np.arange(used.size)[:, None], scales(shifts)[used]].sum(axis=1)
    shape, shift = np.unravel_index(int(bits.argmin()), bits.shape)
    model = Model(int(shape), int(shifts[shift]), 1, False)
    lanes = rans.lanes_for(int(bits.min() / 8 / _tiles(float(bits.min()))))
    return model._replace(lanes=lanes, escapes=bool(counts[escaping(rows(model))].any()))


def _bits(counts: NDArray[np.int64], model: Model) -> float:
    """Expected size of symbols with these counts, without states."""
    return float((counts * code_lengths()[model.shape, scales(model.shift)[:, 0]]).sum())


def _tiles(bits: float) -> int:
    """How many tiles of about TILE_BYTES a stream makes."""
    return max(1, round(bits / 8 / TILE_BYTES))


CODER = Parametric()
