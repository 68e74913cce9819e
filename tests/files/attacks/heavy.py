"""What is no lie, but heavy: files that are accepted, in memory that docs/format.md bounds."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from attacks import MODEL, spread
from attacks.coders import LANE, ONE
from attacks.headers import entry, plain
from rarefy.codes import Dense, Node
from rarefy.files import container, record
from rarefy.files.head import Tiles, write_head
from rarefy.native import crc32

if TYPE_CHECKING:
    from pathlib import Path

    from attacks import Make

ZEROS = 1 << 23
"""Elements of `zeros`."""


def records(folder: Path) -> None:
    """Parameters of 13 bytes, names and all."""
    data = record.encode(Dense.of(np.zeros(0, np.float32), "BF16"), "BF16")
    container.write(folder, [(f"p{i:06}", data) for i in range(50_000)], single_bytes=1 << 60)
    assert (folder / MODEL).stat().st_size < 14 * 50_000


def tensors(folder: Path) -> None:
    header = {f"{i}": entry(shape=(0,), offsets=(0, 0)) for i in range(50_000)}
    (folder / MODEL).write_bytes(plain(header))


def braces(folder: Path) -> None:
    """JSON that is small as text and large as objects."""
    (folder / MODEL).write_bytes(plain(b'{"__metadata__":{},"a":{"x":[' + b"{}," * 300_000 + b'0],"shape":[]}}'))


def tiles(folder: Path) -> None:
    """Tiles of one symbol, nine bytes each."""
    count = 100_000
    stream = Tiles(1, count, ONE, 1, (4,) * count, (crc32(LANE),) * count)
    spread(write_head((count,), 7, Node(0, (7,)), [stream]) + LANE * count)(folder)


def zeros(folder: Path) -> None:
    """As many elements as tiles can hold, in hardly any bytes."""
    spread(record.encode(Dense.of(np.zeros(ZEROS, np.float32), "BF16"), "F32", "huffman"))(folder)


HEAVY: dict[str, Make] = {
    "50,000 records": records,
    "50,000 tensors": tensors,
    "300,000 braces": braces,
    "100,000 tiles": tiles,
    "zeros": zeros,
}
