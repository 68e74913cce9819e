"""Rate: what the weights cost on disk, whatever is inside the files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from rarefy import units
from rarefy.errors import FormatError, UsageError


@dataclass(frozen=True)
class Rate:
    """Bytes of a stored network.

    Attributes:
        weights: bytes of each weight file, by path relative to the network's folder.
        side: bytes of each file beside them (tokenizer, config, log), and of a GGUF's tokenizer.
    """

    weights: Mapping[str, int]
    side: Mapping[str, int]

    @property
    def bytes(self) -> int:
        """Of all weight files."""
        return sum(self.weights.values())

    @property
    def bits(self) -> int:
        """The rate."""
        return 8 * self.bytes

    @property
    def side_bytes(self) -> int:
        return sum(self.side.values())

    def bpw(self, weights: int) -> float:
        """Bits a weight, of ``weights`` unique parameters of the original network.

        Raises:
            ValueError: there are no weights.
        """
        return units.bpw(self.bytes, weights)


def rate(path: str | Path) -> Rate:
    """Measure a network on disk.

    A folder's rate is that of every ``*.safetensors`` in it and its subfolders, hidden ones aside; links
    are followed. A ``.safetensors`` file stands for itself. A ``.gguf`` file is counted without its
    tokenizer, as our own files are: its size less the ``tokenizer.*`` entries of its header.

    Raises:
        UsageError: the path is missing, unreadable, or has no weight files.
        FormatError: a GGUF file is damaged.
    """
    path = Path(path)
    try:
        if path.is_dir():
            return _folder(path)
        size = path.stat().st_size
    except OSError as error:
        raise UsageError(f"cannot measure {path}", (error.strerror or str(error)).lower(), "check the path") from None
    if path.suffix == ".gguf":
        tokenizer = _gguf_tokenizer(path)
        return Rate({path.name: size - tokenizer}, {"tokenizer": tokenizer})
    if path.suffix == ".safetensors":
        return Rate({path.name: size}, {})
    raise UsageError(f"{path} holds no weights that can be measured", remedy="name a folder, a .safetensors or a .gguf")


def _folder(folder: Path) -> Rate:
    weights: dict[str, int] = {}
    side: dict[str, int] = {}
    for file in sorted(_files(folder)):
        found = weights if file.suffix == ".safetensors" else side
        found[file.relative_to(folder).as_posix()] = file.stat().st_size
    if not weights:
        raise UsageError(f"{folder} holds no weights that can be measured", "it has no *.safetensors")
    return Rate(weights, side)


def _files(folder: Path) -> Iterator[Path]:
    for entry in folder.iterdir():
        if entry.name.startswith("."):
            continue
        # A linked folder may lead back up; a linked file is how the hub's cache stores weights.
        if entry.is_dir():
            if not entry.is_symlink():
                yield from _files(entry)
        else:
            yield entry


def _gguf_tokenizer(file: Path) -> int:
    try:
        from gguf import GGUFReader
    except ImportError:
        raise UsageError(
            f"cannot measure {file}", "the package gguf is missing", "install it with pip install rarefy[gguf]"
        ) from None
    try:
        fields = GGUFReader(file).fields.values()
    except Exception as error:  # the reader meets damage with whatever NumPy or its own code raises
        raise FormatError(f"cannot read the header of {file}", str(error)) from None
    return sum(int(part.nbytes) for field in fields if field.name.startswith("tokenizer.") for part in field.parts)
