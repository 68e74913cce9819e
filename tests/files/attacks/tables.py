"""The single layout: a table of names and sizes, its checksum right."""

from __future__ import annotations

from typing import TYPE_CHECKING

import golden

from attacks import MODEL, attack, payload
from rarefy.files.head import checksum
from rarefy.files.safetensors import write
from rarefy.files.varint import varint

if TYPE_CHECKING:
    from pathlib import Path

    from attacks import Make


def single(body: bytes, rest: bytes = b"", length: int | None = None) -> Make:
    """The layout's tensor: a table with a checksum that is right, and what follows."""
    table = varint(len(body) if length is None else length) + body
    return lambda folder: write(folder / MODEL, [("rarefy", payload(table + checksum(table) + rest))])


def named(names: bytes, *sizes: int) -> bytes:
    return varint(1 + 16 * len(sizes)) + names + b"".join(varint(size) for size in sizes)


attack("truncated", "a table that ends early", single(named(b"\x00\x08a"), length=90), "ends early")
attack("truncated", "a record that ends early", single(named(b"\x00\x08a", 90), b"x" * 80), "does not fit")
attack("oversized", "bytes after the last record", single(named(b"\x00\x08a", 1), b"xyz"), "does not fit")
attack("gigantic", "a table of 2^59 names", single(varint(1 + 16 * 2**58)), "ends early")
attack("gigantic", "a table of 2^62 bytes", single(b"", length=2**62), "ends early")
attack("gigantic", "a record of 2^62 bytes", single(named(b"\x00\x08a", 2**62), b"x"), "does not fit")
attack("gigantic", "a name of 2^40 bytes", single(named(b"\x00" + varint(2**43), 0)), "malformed name")
attack("gigantic", "an endless number", single(b"\xff" * 40), "too large")
attack("duplicate or cyclic", "a name twice in a table", single(named(b"\0\x08a\1\0", 0, 0)), "a name twice")
attack("duplicate or cyclic", "a name that begins with itself", single(named(b"\x05\x08a", 0)), "malformed name")
attack("lying", "a name that is no UTF-8", single(named(b"\x00\x08\xff", 0)), "not UTF-8")
attack("lying", "a table of version 2", single(varint(2)), "version 2")


def damaged_table(folder: Path) -> None:
    data = (golden.FOLDER / "single" / MODEL).read_bytes()
    assert data.count(b"fc1") == 1
    (folder / MODEL).write_bytes(data.replace(b"fc1", b"fc3"))


attack("lying", "a name changed under its checksum", damaged_table, "checksum is wrong")
