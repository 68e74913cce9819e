"""Parameter names in few bytes: what a name shares with the one before it is not written again, nor common endings."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from rarefy.errors import FormatError
from rarefy.files.varint import varint

if TYPE_CHECKING:
    from collections.abc import Iterable

    from rarefy.files.varint import Cursor

ENDINGS: Final = ("", "weight", "bias", ".weight", ".bias", "running_mean", "running_var", "num_batches_tracked")
"""Part of the format: docs/format.md. A name's ending is written as its place here."""

_LONGEST: Final = 1 << 16


def write_names(names: Iterable[str]) -> bytes:
    """Each name as bytes shared with the name before, ending + 8 * length of the middle, the middle."""
    out = bytearray()
    before = b""
    for name in names:
        text = name.encode("utf-8")
        shared = next((i for i, (a, b) in enumerate(zip(text, before, strict=False)) if a != b), None)
        shared = min(len(text), len(before)) if shared is None else shared
        rest = text[shared:]
        ending = max(range(len(ENDINGS)), key=lambda i: len(ENDINGS[i]) if rest.endswith(ENDINGS[i].encode()) else -1)
        middle = rest[: len(rest) - len(ENDINGS[ending])]
        out += varint(shared) + varint(ending + 8 * len(middle)) + middle
        before = text
    return bytes(out)


def read_names(cursor: Cursor, count: int) -> list[str]:
    """`count` names. Raises FormatError for names that are malformed, too long or there twice."""
    if count > cursor.left // 2:
        raise FormatError(f"{cursor.what} ends early")
    names: list[str] = []
    before = b""
    for _ in range(count):
        shared = cursor.varint()
        length, ending = divmod(cursor.varint(), 8)
        if shared > len(before) or shared + length > _LONGEST:
            raise FormatError(f"{cursor.what} has a malformed name")
        before = before[:shared] + cursor.take(length) + ENDINGS[ending].encode()
        try:
            names.append(before.decode("utf-8"))
        except UnicodeDecodeError:
            raise FormatError(f"{cursor.what} has a name that is not UTF-8") from None
    if len(set(names)) != count:
        raise FormatError(f"{cursor.what} has a name twice")
    return names
