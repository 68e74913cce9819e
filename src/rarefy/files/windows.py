"""Tensors to records in windows of some elements: bounded memory however large a tensor, on all cores.

The streams are those of a dense code or of a difference (one byte plane each), the coder is `rans_tiles`, or for an
archive `context` where that is shorter: their tiles need nothing that is known only at the end of the tensor, so a
window is read, split, coded and forgotten. Exponents and mantissas apart: Hershcovitch et al., "ZipNN: Lossless
Compression for AI Models", 2024, arXiv:2411.05239.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from rarefy.codes import Dense, Node
from rarefy.codes.difference import RUN, WAYS, Difference, apart, rotated
from rarefy.entropy import context, rans_tiles
from rarefy.files.buffers import Buffers
from rarefy.files.head import INLINE_BYTES, RAW, Tiles, write_head
from rarefy.files.in_order import in_order
from rarefy.native import _kernels, crc32

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from numpy.typing import NDArray

    from rarefy.codes.dtypes import DType
    from rarefy.files.safetensors import TensorFile
    from rarefy.files.spool import Spool

WINDOW: Final = RUN
"""Elements in a window: a whole number of tiles of every plane."""

SAMPLES: Final = 2
"""Windows of a tensor by which a way of taking the difference is chosen."""

_STEPS: Final = (WINDOW, WINDOW >> 5)
"""Symbols in a tile of differences: all of a window, or few of one exponent."""

_WORTH: Final = 0.995
"""What a difference must take off, as restoring it reads the base too; and what the context coder must, a hundred
times slower."""

_BUFFERS: Final = Buffers()

_CONTEXT: Final = context.write_shape(context.Shape(8, 1))
"""Its model for a byte plane: what stands above in a matrix says nothing of exponents that the left has not said."""


@dataclass(frozen=True)
class Tiling:
    """How one plane is coded. step: symbols in a tile. model: of the context coder, or of none."""

    step: int
    model: bytes = b""

    @property
    def coder(self) -> int:
        """Its number in files."""
        return context.CODER.ID if self.model else rans_tiles.CODER.ID

    def encode(self, plane: NDArray[np.uint8]) -> tuple[bytes, NDArray[np.int64], NDArray[np.int64]]:
        """Tiles one after the other, the bytes of each and the CRC-32 of each."""
        if not self.model:
            return rans_tiles.encode_tiles(plane, self.step)
        tiles = [context.CODER.encode(plane[i : i + self.step], self.model) for i in range(0, plane.size, self.step)]
        sizes, checks = [len(tile) for tile in tiles], [crc32(tile) for tile in tiles]
        return b"".join(tiles), np.array(sizes, np.int64), np.array(checks, np.int64)

    def size(self, plane: NDArray[np.uint8]) -> int:
        """Bytes of its tiles, with what the head says of them."""
        if self.model:
            _, sizes, _ = self.encode(plane)
            return int(sizes.sum()) + 7 * sizes.size
        tiles = [plane[i : i + self.step] for i in range(0, plane.size, self.step)]
        return int(sum(_kernels.tile_bytes(tile) for tile in tiles)) + 6 * len(tiles)


@dataclass(frozen=True)
class Part:
    """One tensor to be coded. shape, dtype: as the record says. base: the file that holds the tensor's base, or None.
    way: how it differs from that (`codes.difference`), None for the elements themselves. archive: as few bytes as can
    be, however slowly they decode. tilings: of each plane."""

    file: TensorFile
    name: str
    shape: tuple[int, ...]
    dtype: DType
    base: TensorFile | None = None
    way: int | None = None
    archive: bool = False
    tilings: tuple[Tiling, ...] = ()

    @property
    def count(self) -> int:
        """Elements."""
        return math.prod(self.shape)

    def planes(self, start: int, way: int | None, most: int = WINDOW) -> NDArray[np.uint8]:
        """Byte planes (width, n) of the n <= most elements from `start`, of differences if there is a way.

        They lie in memory that is used again for the next ones that this thread asks for.
        """
        elements = self._read(self.file, start, most)
        if way is not None:
            assert self.base is not None
            elements = apart(elements, self._read(self.base, start, most), self.dtype, way)
        planes = _BUFFERS.take("planes", elements.nbytes).reshape(self.dtype.size, -1)
        _kernels.split_planes(elements.view(np.uint8), rotated(self.dtype, way), planes)
        return planes

    def _read(self, file: TensorFile, start: int, most: int) -> NDArray[Any]:
        size = min(most, self.count - start) * self.dtype.size
        out = _BUFFERS.take("own" if file is self.file else "base", size)
        file.read_into(self.name, start * self.dtype.size, out.data)
        return out.view(f"<u{self.dtype.size}")

    def node(self) -> Node:
        """The record's code."""
        if self.way is None:
            return Node(Dense.KIND, (self.dtype.number,))
        return Node(Difference.KIND, (self.dtype.number, self.way))


@dataclass(frozen=True)
class Coded:
    """A record whose tiles wait in a spool. runs: (start, bytes) of them, in order."""

    part: Part
    head: bytes
    runs: Sequence[tuple[int, int]]
    spool: Spool

    @property
    def size(self) -> int:
        """Bytes of the record."""
        return len(self.head) + sum(size for _, size in self.runs)

    def chunks(self) -> Iterator[bytes]:
        """The record, little by little."""
        yield self.head
        for start, size in self.runs:
            yield self.spool.read(start, size)


def code(parts: Iterable[Part], spool: Spool, threads: int, advance: Callable[[int], None]) -> Iterator[Coded]:
    """Records of `parts`, in their order; advance: told of raw bytes that are done.

    The bytes do not depend on `threads`. At most two windows a thread are in memory.
    """
    jobs = ((part, start) for part in parts for start in range(0, max(part.count, 1), WINDOW))
    planes: list[_Plane] = []
    for part, start, coded in in_order(lambda job: (*job, _code_window(*job)), jobs, threads):
        if start == 0:
            planes = [_Plane() for _ in coded]
        for plane, tiles in zip(planes, coded, strict=True):
            plane.add(*tiles, spool)
        done = min(start + WINDOW, part.count)
        advance((done - start) * part.dtype.size)
        if done == part.count:
            yield _record(part, planes, spool)


def choose(part: Part) -> Part:
    """The part with the way of coding, and the tiling of each plane, that samples of it say are best."""
    if part.base is None:
        middle = WINDOW * (-(-part.count // WINDOW) // 2)
        sample = part.planes(middle, None, rans_tiles.SAMPLE)
        return _archived(replace(part, tilings=tuple(Tiling(rans_tiles.tile_symbols(p)) for p in sample)), middle)
    windows = -(-part.count // WINDOW)
    starts = [w * WINDOW for w in _spread(windows, max(1, min(windows // 4, SAMPLES)))]
    best, least = part, math.inf
    for way in (None, *WAYS):
        sizes = np.zeros((part.dtype.size, len(_STEPS)))
        for start in starts:
            for plane, row in zip(part.planes(start, way), sizes, strict=True):
                row += [Tiling(step).size(plane) for step in _STEPS]
        size = sizes.min(axis=1).sum()
        if size < least * (1 if best.way is not None or way is None else _WORTH):
            tilings = tuple(Tiling(_STEPS[i]) for i in sizes.argmin(axis=1))
            best, least = replace(part, way=way, tilings=tilings), size
    return _archived(best, starts[0]) if best.way is not None else choose(replace(part, base=None))


def _archived(part: Part, start: int) -> Part:
    """For an archive, the part with the context coder where that makes the window from `start` on shorter."""
    if not part.archive:
        return part
    pairs = zip(part.planes(start, part.way), part.tilings, strict=True)
    other = Tiling(WINDOW, _CONTEXT)
    worth = (other if other.size(plane) < _WORTH * own.size(plane) else own for plane, own in pairs)
    return replace(part, tilings=tuple(worth))


def choose_all(parts: Iterable[Part], threads: int) -> Iterator[Part]:
    """`choose` for each, some ahead of where they are wanted."""
    return in_order(choose, parts, threads)


class _Plane:
    """What is known of one stream while its tiles are being made."""

    def __init__(self) -> None:
        self.sizes: list[int] = []
        self.checks: list[int] = []
        self.runs: list[tuple[int, int]] = []
        self.first = b""

    def add(self, tiles: bytes, sizes: NDArray[np.int64], checks: NDArray[np.int64], spool: Spool) -> None:
        if not self.sizes:
            self.first = tiles if sizes.size == 1 else b""
        self.sizes += sizes.tolist()
        self.checks += checks.tolist()
        self.runs.append((spool.append(tiles), len(tiles)))


def _code_window(part: Part, start: int) -> list[tuple[bytes, NDArray[np.int64], NDArray[np.int64]]]:
    """Tiles, their sizes and their checksums, plane by plane."""
    planes = part.planes(start, part.way)
    return [tiling.encode(plane) for plane, tiling in zip(planes, part.tilings, strict=True)]


def _record(part: Part, planes: list[_Plane], spool: Spool) -> Coded:
    streams, runs = [], []
    for plane, tiling in zip(planes, part.tilings, strict=True):
        if part.count == 0:
            streams.append(Tiles(RAW, 0, b"", 0, (0,), inline=b""))
        elif len(plane.sizes) == 1 and plane.sizes[0] < INLINE_BYTES:
            streams.append(_inline(plane.first, tiling, part.count))
        else:
            tiles = tuple(plane.sizes), tuple(plane.checks)
            streams.append(Tiles(tiling.coder, part.count, tiling.model, tiling.step, *tiles))
            runs += plane.runs
    return Coded(part, write_head(part.shape, part.dtype.number, part.node(), streams), runs, spool)


def _inline(tile: bytes, tiling: Tiling, count: int) -> Tiles:
    """A short stream in the head. The byte that says raw is left out with the coder that says nothing else."""
    if not tiling.model and tile[0] == 0:
        return Tiles(RAW, count, b"", count, (count,), inline=tile[1:])
    return Tiles(tiling.coder, count, tiling.model, count, (len(tile),), inline=tile)


def _spread(count: int, most: int) -> list[int]:
    """At most `most` of 0 .. count - 1, evenly."""
    return sorted(
        {(2 * i + 1) * count // (2 * most) for i in range(min(count, most))} if count > most else range(count)
    )
