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


# The compact form


def compacted(rest: bytes, names: bytes = b"\x00\x08a", count: int = 1) -> Make:
    data = b"\0" + varint(count) + names + rest
    return lambda folder: write(folder / MODEL, [("rarefy", payload(data + checksum(data)))])


BF16 = b"\x20\x02\x04\x01"
attack("truncated", "a compact record that ends early", compacted(BF16 + b"\0ab\0a"), "ends early")
attack(
    "truncated", "a compact tensor of one byte", lambda f: write(f / MODEL, [("rarefy", payload(b"\0"))]), "checksum"
)
attack("oversized", "bytes after the last compact record", compacted(BF16 + b"\0ab\0abc"), "last record")
attack("oversized", "a compact tensor of 2^18 bytes", compacted(bytes(2**18)), "at most 131072")
attack("lying", "a compact record without a code", compacted(b"\x30\x02\0ab\0ab"), "without a code")
attack("lying", "a compact stream of no count", compacted(BF16 + b"\x03ab"), "no count")
attack("gigantic", "2^60 compact records", compacted(b"", b"\x00\x08a", 2**60), "ends early")
attack("gigantic", "a compact tensor of 2^62 elements", compacted(b"\x40" + 2 * varint(2**31) + BF16[2:]), "too large")
attack(
    "gigantic",
    "a compact stream of 2^40 symbols",
    compacted(BF16 + 2 * (b"\x06" + varint(2**40) + b"\0\0")),
    "more than",
)
