"""Packing: a checkpoint in fewer bytes, nothing lost; alone, or as its difference from another one."""

from __future__ import annotations

import json
import shutil
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from rarefy.codes.dtypes import DTYPES
from rarefy.errors import UsageError
from rarefy.files import container, manifest
from rarefy.files.atomic import canonical_json, whole_folder, write_bytes, writing
from rarefy.files.directory import INDEX
from rarefy.files.restoring import Stored, is_difference, restore
from rarefy.files.spool import Spool
from rarefy.files.windows import Coded, Part, choose_all, code
from rarefy.measure import memory
from rarefy.measure.rate import rate
from rarefy.plan.checkpoint import Checkpoint, digest
from rarefy.progress import Progress, Silent
from rarefy.threads import cores

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from rarefy.files.safetensors import TensorFile

SECTION: Final = "packed"
"""In the manifest: `files`, the safetensors header of each weight file; `texts`, files that an artifact writes anew;
with a base, `base`, the digest of the tensors that are differences from it."""

CONFIG: Final = "config.json"

TORCH_NAMES: Final = {"F32": "float32", "BF16": "bfloat16", "F16": "float16", "F64": "float64"}


@dataclass(frozen=True)
class Packed:
    """What packing made. bytes: of OUT's weight files; original: of those that were packed; differences: tensors that
    need the base; decode_seconds: what reading and restoring an archive took on this machine."""

    out: Path
    bytes: int
    original: int
    tensors: int
    differences: int
    seconds: float
    peak_rss_bytes: int
    decode_seconds: float | None = None

    def to_json(self) -> dict[str, Any]:
        """As the command line prints it."""
        return {**asdict(self), "out": str(self.out)}


def pack(
    source: str | Path,
    out: str | Path,
    *,
    base: str | Path | None = None,
    archive: bool = False,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Packed:
    """Write the checkpoint `source` as the artifact `out`, from which `unpack` makes the same files, byte for byte.

    source: a directory of safetensors, whole or in shards, with whatever lies beside them; or one such file.
    base: another checkpoint; tensors with its names, types and shapes are stored as their difference from it where
        that is shorter. OUT can then be read only beside it.
    archive: as few bytes as can be: the context coder wherever it is shorter. Packs and unpacks slowly.
    threads: default all cores; the bytes do not depend on it. Memory does: a few MB each, however large a tensor.

    Raises UsageError when `out` exists or there is nothing to pack, FormatError for damaged files, ResourceError when
    the disk is full. OUT is written whole or not at all.
    """
    began, threads, progress = time.monotonic(), threads or cores(), progress or Silent()
    checkpoint, folder = Checkpoint(Path(source)), Path(out)
    other = None if base is None else Checkpoint(Path(base))
    with whole_folder(folder, checkpoint.folder) as fresh:
        coded = _write_weights(checkpoint, _parts(checkpoint, other, archive), fresh, threads, progress)
        differences = [each.part.name for each in coded if each.part.way is not None]
        sections = _sections(checkpoint, other, differences, threads)
        _write_beside(checkpoint, fresh, sections)
        manifest.write(fresh, sections)
    decode_seconds = _decode_seconds(folder, other, threads) if archive else None
    return Packed(
        folder,
        rate(folder).bytes,
        checkpoint.size,
        len(coded),
        len(differences),
        time.monotonic() - began,
        memory.peak(),
        decode_seconds,
    )


def _write_weights(
    checkpoint: Checkpoint, parts: Iterable[Part], fresh: Path, threads: int, progress: Progress
) -> list[Coded]:
    """The weight files of OUT."""
    spool = Spool(fresh.parent)
    try:
        total = sum(entry.size for file in checkpoint.files for entry in file.entries.values())
        with progress.task("packing", total) as advance:
            coded = list(code(choose_all(parts, threads), spool, threads, advance))
        with progress.task("writing", 0):
            container.write(fresh, [(each.part.name, each) for each in coded])
    finally:
        spool.close()
    return coded


def _decode_seconds(folder: Path, other: Checkpoint | None, threads: int) -> float:
    """What restoring every tensor takes, from files to memory."""
    began, reader = time.monotonic(), container.Reader(folder)
    try:
        heads = ((name, reader.head(name)) for name in reader.names())
        wanted = ((name, head, other.holder[name] if other and is_difference(head) else None) for name, head in heads)
        for _ in restore(Stored(reader), wanted, threads):
            pass
    finally:
        reader.close()
    return time.monotonic() - began


def _parts(checkpoint: Checkpoint, other: Checkpoint | None, archive: bool = False) -> Iterator[Part]:
    for file in checkpoint.files:
        for name, entry in file.entries.items():
            dtype = DTYPES.get(entry.dtype)
            if dtype is None:  # bytes of a type that has no number in the format; its header says what they are
                yield Part(file, name, (entry.size,), DTYPES["U8"], archive=archive)
            else:
                yield Part(file, name, entry.shape, dtype, _same(other, file, name), archive=archive)


def _same(other: Checkpoint | None, file: TensorFile, name: str) -> TensorFile | None:
    """The file of the base that holds a tensor of that name, type and shape."""
    found = None if other is None else other.holder.get(name)
    if found is None:
        return None
    one, two = file.entries[name], found.entries[name]
    return found if (one.dtype, one.shape) == (two.dtype, two.shape) else None


def _sections(checkpoint: Checkpoint, other: Checkpoint | None, differences: list[str], threads: int) -> dict[str, Any]:
    """The manifest's sections."""
    packed: dict[str, Any] = {
        "files": {file.path.name: file.header[8:].decode("utf-8") for file in checkpoint.files},
        "texts": {},
    }
    for name in (CONFIG, INDEX):
        path = None if checkpoint.folder is None else checkpoint.folder / name
        if path is not None and path.is_file():
            packed["texts"][name] = _text(path)
    if differences:
        assert other is not None
        packed["base"] = digest(other, differences, threads)
    config = _config(packed)
    described: dict[str, Any] = {"kind": "module", "type": "checkpoint"}
    if config is not None and "quantization_config" not in config and config.get("architectures"):
        described = {"kind": "transformers", "architecture": config["architectures"][0]}
    return {"model": described, "original": {"bytes": checkpoint.size}, "history": [], SECTION: packed}


def _text(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8")
    except UnicodeDecodeError:
        raise UsageError(f"{path} is not text", "it is not UTF-8", "repair or remove it") from None


def _config(packed: dict[str, Any]) -> dict[str, Any] | None:
    try:
        config = json.loads(packed["texts"].get(CONFIG, "null"))
    except ValueError:
        return None
    return config if isinstance(config, dict) else None


def _write_beside(checkpoint: Checkpoint, fresh: Path, sections: dict[str, Any]) -> None:
    """config.json as `from_pretrained` needs it, and everything else as it is."""
    packed = sections[SECTION]
    config = _config(packed)
    if config is not None:
        write_bytes(
            fresh / CONFIG, canonical_json({**config, "quantization_config": _plugin(config, checkpoint, packed)})
        )
    for relative in checkpoint.beside():
        if relative.as_posix() in packed["texts"] and (config is not None or relative.as_posix() == INDEX):
            continue
        assert checkpoint.folder is not None
        target = fresh / relative
        if target.exists() or relative.as_posix() == manifest.FILE:
            raise UsageError(
                f"{checkpoint.folder / relative} would be overwritten by the artifact's own {relative}",
                remedy="move it away",
            )
        with writing(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(checkpoint.folder / relative, target)


def _plugin(config: dict[str, Any], checkpoint: Checkpoint, packed: dict[str, Any]) -> dict[str, Any]:
    """What the transformers plug-in is told."""
    told: dict[str, Any] = {"quant_method": "rarefy", "version": 1}
    sizes: dict[str, int] = {}
    for file in checkpoint.files:
        for entry in file.entries.values():
            if entry.dtype in TORCH_NAMES:
                sizes[entry.dtype] = sizes.get(entry.dtype, 0) + entry.size
    if sizes:
        told["dtype"] = TORCH_NAMES[max(sizes, key=lambda name: sizes[name])]
    inside = config.get("quantization_config")
    if "base" in packed:
        told["unpack_first"] = "its weights are differences from another checkpoint"
    elif inside is not None:
        method = inside.get("quant_method") if isinstance(inside, dict) else None
        told["unpack_first"] = f"its weights are quantized by {method or 'another tool'}, which reads its own files"
    return told
