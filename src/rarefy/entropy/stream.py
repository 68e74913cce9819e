"""A stream of byte symbols, and what a coder must do with one.

A stream is cut into tiles. A tile is coded by itself, so tiles decode in parallel and by random access, and damage
stays inside one. All tiles of a stream share one model (for rANS a table of frequencies), written once as bytes.
"""

from __future__ import annotations

import functools
import importlib
import pkgutil
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Final, Protocol, runtime_checkable

import numpy as np

from rarefy.errors import UsageError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Given = NDArray[np.uint8] | None
    """Side information: for each symbol the index of its scale, which the decoder knows beforehand. uint8, in the
    shape of the symbols. A coder without a use for it ignores it."""

TILE_BYTES = 65536
"""Target coded size of a tile, bytes."""

TILE_SYMBOLS = 1 << 20
"""Most symbols in a tile, so that a stream of almost no entropy still decodes in bounded memory."""

DEFAULT_CODERS: Final = ("raw", "rans", "parametric")
"""The coders that a stream is written with unless another is asked for."""


@dataclass(frozen=True, eq=False)
class Stream:
    """Byte symbols of one role within a code.

    name: the role ("values", "support", ...), for reports and for coders that keep a model per role.
    symbols: uint8, of any shape; a coder that looks at neighbours in row and column sees the shape, others the
        row-major sequence.
    given: the scale index of each symbol, uint8 in the same shape, where the file says it before the symbols.
    """

    name: str
    symbols: NDArray[np.uint8]
    given: Given = None

    def bits(self) -> float:
        """Estimated coded size in bits: the cheapest of the default coders', its model included."""
        return min(coder(name).estimate(self.symbols, self.given) for name in DEFAULT_CODERS)


@runtime_checkable
class Coder(Protocol):
    """Turns symbols into bytes under a model that is itself bytes. Stateless; ID is its number in files."""

    ID: ClassVar[int]

    def estimate(self, symbols: NDArray[np.uint8], given: Given = None) -> float:
        """Expected coded size in bits, model included."""
        ...

    def fit(self, symbols: NDArray[np.uint8], given: Given = None) -> bytes:
        """The model of a whole stream."""
        ...

    def tile_symbols(self, model: bytes, symbols: NDArray[np.uint8], given: Given = None) -> int:
        """How many symbols make a tile of about TILE_BYTES coded bytes."""
        ...

    def encode(self, symbols: NDArray[np.uint8], model: bytes, given: Given = None) -> bytes:
        """One tile."""
        ...

    def decode(self, data: bytes | memoryview, model: bytes, out: NDArray[np.uint8], given: Given = None) -> None:
        """Fill `out` with the tile's symbols. Raises FormatError when `data` is not a tile of that many symbols."""
        ...


@functools.cache
def coders() -> dict[str, Coder]:
    """Every coder of this room by name: modules that define `CODER`."""
    from rarefy import entropy

    found = {}
    for info in pkgutil.iter_modules(entropy.__path__):
        module = importlib.import_module(f"rarefy.entropy.{info.name}")
        if hasattr(module, "CODER"):
            found[info.name] = module.CODER
    return dict(sorted(found.items(), key=lambda item: item[1].ID))


def coder(name: str) -> Coder:
    """The coder called `name`. Raises UsageError when there is none."""
    try:
        return coders()[name]
    except KeyError:
        raise UsageError(f"no coder is called {name!r}", remedy=f"choose one of {', '.join(coders())}") from None
