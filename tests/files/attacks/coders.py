"""Tables and coded bytes in records that are right in everything else."""

from __future__ import annotations

from typing import TYPE_CHECKING

import golden
import numpy as np

from attacks import attack
from attacks.records import headed, inline
from rarefy.codes import Node
from rarefy.entropy.huffman import CODER as HUFFMAN
from rarefy.entropy.rans import CODER as RANS

if TYPE_CHECKING:
    from attacks import Make


def coded(coder: int, model: bytes, data: bytes, count: int) -> Make:
    """One tile of int8, in a record that is right in everything else."""
    return headed((count,), Node(0, (7,)), inline(data, coder, model, count))


SYMBOLS = golden.numbers(400).astype(np.int8).view(np.uint8)
TABLE = RANS.fit(SYMBOLS)
TILE = RANS.encode(SYMBOLS, TABLE)
ONE = RANS.fit(np.zeros(9, np.uint8))
CODES = HUFFMAN.fit(SYMBOLS)
LANE = (65536).to_bytes(4, "little")
STATES = "endless states"
for name, model, data, told in (
    ("rANS without its states", TABLE, b"", "malformed"),
    ("rANS with half a state", TABLE, TILE[:3], "malformed"),
    ("rANS that lacks words", TABLE, TILE[:-2], "malformed"),
    ("rANS with a word too many", TABLE, TILE + b"\0\0", "malformed"),
    ("rANS with half a word", TABLE, TILE + b"\0", "malformed"),
    ("rANS that begins below 2^16", TABLE, bytes(4) + TILE[4:], "malformed"),
    ("rANS that does not end where it began", ONE, b"\x01\0\x01\0", "malformed"),
    ("a table without bits", b"\0", LANE, "table"),
    ("a table of zeros", b"\0" + bytes(40), LANE, "malformed"),
    (
        "a table that skips all symbols",
        b"\0" + 20 * b"\x20\x40\x81\x02\x04\x08\x10",
        LANE,
        "range|add up|ends|malformed",
    ),
    ("a table longer than any", b"\0" * 2000, LANE, "2000 bytes"),
    ("a table of 128 lanes", b"\x38" + TABLE[1:], TILE, "lanes"),
    ("a table with more after it", TABLE + b"\xff", TILE, "left over"),
):
    attack(STATES, name, coded(1, model, data, SYMBOLS.size), told)
for name, coder, model, data, told in (
    ("Huffman codes that end early", 2, CODES, HUFFMAN.encode(SYMBOLS, CODES)[:-1], "malformed"),
    ("Huffman lengths that never end", 2, bytes(40), b"ab", "malformed"),
    ("Huffman lengths that promise too much", 2, b"\xff", b"ab", "left over|promise"),
    ("contexts that end in another way", 3, b"\x0f", b"\xff" * 5, "malformed"),
    ("contexts with bytes left over", 3, b"\x0f", bytes(400), "malformed"),
    ("contexts without columns", 3, b"\x07", b"a", "malformed"),
    ("contexts of 2^28 columns", 3, b"\xff\xff\xff\xff", b"a", "malformed"),
    ("a tile whose table is longer than itself", 8, b"", b"\x7fab", "malformed"),
    ("a tile whose table is endless", 8, b"", b"\xff" * 12, "malformed"),
    ("a raw tile that ends early", 8, b"", b"\x00abc", "malformed"),
    ("tiles with a model that they have not", 8, b"a", b"\x00" + bytes(400), "model"),
):
    attack(STATES, name, coded(coder, model, data, SYMBOLS.size), told)
