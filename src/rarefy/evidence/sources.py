"""Data as users give it: text files and .npz arrays, opened and checked, each fault one line."""

from __future__ import annotations

import gzip
import lzma
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rarefy.errors import FormatError, RarefyError, UsageError
from rarefy.evidence.fingerprint import fingerprint_examples
from rarefy.evidence.text import Parts, Sentences, Text, Tokenizer, Tokens, topics

__all__ = ["Arrays", "Parts", "Sentences", "Text", "Tokenizer", "Tokens", "read", "read_arrays", "read_text", "topics"]

_GZIP, _XZ = b"\x1f\x8b", b"\xfd7zXZ\x00"


@dataclass(frozen=True)
class Arrays:
    """Examples for a network that reads arrays.

    Attributes:
        x: (n, ...) inputs, float32 as the network wants them; images given as uint8 are scaled to [0, 1];
            other integers are token ids and stay int64.
        y: (n,) int64 labels, (n, ...) float32 targets of a regression, or None.
        name: what messages call them by.
    """

    x: NDArray[np.float32] | NDArray[np.int64]
    y: NDArray[np.int64] | NDArray[np.float32] | None
    name: str

    def fingerprint(self) -> str:
        """Sketch of the examples, for the overlap guard."""
        return fingerprint_examples(self.x)

    def tokens(self) -> Tokens:
        """The inputs as token blocks, for a language model that has no tokenizer.

        Raises:
            UsageError: they are not (N, T) integers with T of at least 2.
        """
        if self.x.dtype != np.int64 or self.x.ndim != 2 or self.x.shape[1] < 2:
            raise UsageError(
                f"{self.name} does not hold token blocks",
                f"x is {_shape(self.x)}",
                "give integers of shape (blocks, tokens), or a text file",
            )
        # The ids written out are a text to the overlap guard.
        text = "\n".join(" ".join(map(str, row)) for row in self.x.tolist())
        return Tokens(self.x.astype(np.int64), text, self.name)


def read(paths: Sequence[str | Path]) -> Text | Arrays:
    """What ``--data`` names: one .npz of arrays, or any number of text files (plain, .xz or .gz).

    Raises:
        UsageError: nothing is named, a file is missing, or kinds are mixed.
        FormatError: a file cannot be understood.
    """
    files = [Path(path) for path in paths]
    if not files:
        raise UsageError("no data are named", remedy="give files with --data")
    arrays = [file for file in files if file.suffix == ".npz"]
    if not arrays:
        return read_text(files)
    if len(files) > 1:
        raise UsageError("more than one file with arrays", f"{arrays[0]} is an .npz", "give one .npz, or text files")
    return read_arrays(arrays[0])


def read_text(paths: Sequence[str | Path]) -> Text:
    """Documents from UTF-8 files, compressed or not; line ends become ``\\n``.

    Raises:
        UsageError: a file is missing or cannot be read.
        FormatError: a file is empty, damaged, or not text.
    """
    files = [Path(path) for path in paths]
    return Text(tuple(_document(file) for file in files), ", ".join(file.name for file in files))


def read_arrays(path: str | Path) -> Arrays:
    """Arrays ``x`` and, where there are labels, ``y`` from an .npz; pickled objects are refused.

    Raises:
        UsageError: the file is missing or cannot be read.
        FormatError: it is damaged, or x and y are missing, empty, not finite or of different lengths.
    """
    file = Path(path)
    found = _npz(file)
    if "x" not in found:
        raise FormatError(f"{file} has no array x", remedy="name the inputs x and the labels y in numpy.savez")
    x = found["x"]
    if x.ndim < 2 or x.size == 0:
        raise FormatError(f"{file} has no examples", f"x is {_shape(x)}", "stack them along the first axis")
    y = found.get("y")
    if y is not None and (y.ndim < 1 or len(y) != len(x)):
        raise FormatError(f"x and y of {file} do not agree", f"x is {_shape(x)}, y is {_shape(y)}")
    return Arrays(_inputs(x, file), None if y is None else _targets(y, file), file.name)


def _document(file: Path) -> str:
    data = _bytes(file)
    try:
        if data.startswith(_GZIP):
            data = gzip.decompress(data)
        elif data.startswith(_XZ):
            data = lzma.decompress(data)
    except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
        raise FormatError(f"cannot decompress {file}", str(error) or "it ends too early", "fetch it again") from None
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise _not_text(file, f"byte {error.start} is not UTF-8") from None
    if "\0" in text:
        raise _not_text(file, "it has zero bytes")
    if not text.strip():
        raise FormatError(f"{file} is empty", remedy="give text with --data")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _not_text(file: Path, why: str) -> RarefyError:
    return FormatError(f"{file} is not text", why, "give UTF-8 text (plain, .xz or .gz) or arrays (.npz)")


def _bytes(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise _unreadable(file, error) from None


def _unreadable(file: Path, error: OSError) -> RarefyError:
    return UsageError(f"cannot read {file}", (error.strerror or str(error)).lower(), "check the path given with --data")


def _npz(file: Path) -> dict[str, NDArray[Any]]:
    try:
        with file.open("rb") as stream:
            archive = np.load(stream, allow_pickle=False)
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise FormatError(f"{file} is a single array", remedy="save x and y with numpy.savez")
            with archive:
                return {name: archive[name] for name in archive.files if name in ("x", "y")}
    except (ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error, MemoryError) as error:
        raise FormatError(f"cannot read the arrays of {file}", str(error) or "it ends too early") from None
    except OSError as error:
        raise _unreadable(file, error) from None


def _inputs(x: NDArray[Any], file: Path) -> NDArray[np.float32] | NDArray[np.int64]:
    if x.dtype == np.uint8:
        return x.astype(np.float32) / np.float32(255.0)
    if x.dtype.kind in "iu":
        return x.astype(np.int64)
    return _finite(x, "x", file)


def _targets(y: NDArray[Any], file: Path) -> NDArray[np.int64] | NDArray[np.float32]:
    if y.dtype.kind not in "iub":
        return _finite(y, "y", file)
    y = y.reshape(-1) if y.size == len(y) else y
    if y.ndim != 1:
        raise FormatError(f"the labels of {file} are not one an example", f"y is {_shape(y)}")
    if y.min() < 0:
        raise FormatError(f"{file} has a negative label", f"y has {y.min()}", "number the classes from 0")
    return y.astype(np.int64)


def _finite(a: NDArray[Any], name: str, file: Path) -> NDArray[np.float32]:
    if a.dtype.kind != "f":
        raise FormatError(f"{name} of {file} does not hold numbers", f"it is {_shape(a)}")
    with np.errstate(over="ignore"):
        values = a.astype(np.float32)
    if not np.isfinite(values).all():
        raise FormatError(f"{name} of {file} has values that are not finite in float32")
    return values


def _shape(a: NDArray[Any]) -> str:
    return f"{a.dtype} {a.shape}"
