"""An artifact on disk: records, config, side files, recipe, manifest."""

from __future__ import annotations

import math
import shutil
import time
from collections import ChainMap
from typing import TYPE_CHECKING, Any

from rarefy.codes import Dense
from rarefy.codes.dtypes import DType, dtype_of, from_float32
from rarefy.errors import UsageError
from rarefy.files import container, manifest, record
from rarefy.files.atomic import write_bytes, write_json, writing
from rarefy.files.directory import SINGLE
from rarefy.files.safetensors import Payload, chunks_of
from rarefy.files.safetensors import write as write_tensors
from rarefy.model import LazyCodes, shape_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from rarefy.codes import Code
    from rarefy.model import Model
    from rarefy.progress import Progress
    from rarefy.recipe import Recipe


def write_artifact(
    model: Model,
    folder: Path,
    recipe: Recipe,
    sections: dict[str, Any],
    scratch: Path,
    threads: int,
    progress: Progress,
) -> None:
    """Write `model` to `folder`. scratch: where records wait for the container. What a killed run left in either goes.

    Raises ResourceError.
    """
    for made in (folder, scratch):
        with writing(made):
            shutil.rmtree(made, ignore_errors=True)
            made.mkdir(parents=True)
    items: list[tuple[str, bytes | Path]] = []
    with progress.task("writing", len(model.codes)) as advance:
        for i, key in enumerate(model.codes):
            path = scratch / f"{i}.record"
            with writing(path):
                path.write_bytes(_record(model, key, recipe.coder, threads))
            items.append((key, path))
            advance(1)
    container.write(folder, items)
    _write_config(model, folder)
    _copy_side_files(model, folder)
    write_bytes(folder / "recipe.toml", recipe.to_toml().encode())
    manifest.write(folder, sections)


class Recorded(LazyCodes):
    """Codes that are on disk as the very records that an artifact holds. record: reads one."""

    def __init__(
        self, load: Callable[[str], Code], shapes: Mapping[str, tuple[int, ...]], record: Callable[[str], bytes]
    ) -> None:
        super().__init__(load, shapes)
        self.record = record


def _record(model: Model, key: str, coder: str | None, threads: int) -> bytes:
    """A tensor's record: as the journal has it, where that was written with the same coders, or made now."""
    codes: Mapping[str, Code] = model.codes
    while isinstance(codes, ChainMap):
        codes = next(part for part in codes.maps if key in part)
    if isinstance(codes, Recorded) and coder is None:
        return codes.record(key)
    return record.encode(codes[key], model.dtypes[key], coder, threads)


def decode_seconds(folder: Path, threads: int) -> float:
    """What reading and decoding every record of an artifact takes, proving them on the way.

    Raises FormatError naming the parameter and tile that is damaged.
    """
    reader = container.Reader(folder)
    began = time.monotonic()
    try:
        for name in reader.names():
            reader.code(name, threads)
    finally:
        reader.close()
    return time.monotonic() - began


def _write_config(model: Model, folder: Path) -> None:
    config = model.skeleton.config()
    if config is not None:
        write_json(folder / "config.json", {**config, "quantization_config": {"quant_method": "rarefy", "version": 1}})


def _copy_side_files(model: Model, folder: Path) -> None:
    source = model.skeleton.folder
    for relative in model.skeleton.side_files():
        assert source is not None
        target = folder / relative
        if target.exists():
            raise UsageError(f"{source / relative} would be overwritten by the artifact's own {relative}")
        with writing(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source / relative, target)


def unpack(model: Model, folder: Path, progress: Progress) -> None:
    """Write `model` as an ordinary directory of dense safetensors, whole or not at all.

    Every tensor has its original element type; what was stored dense in it comes back bit for bit.
    Raises UsageError when `folder` exists, ResourceError when it cannot be written.
    """
    if folder.exists():
        raise UsageError(f"{folder} exists", remedy="choose another output, or remove it")
    fresh = folder.with_name(f".{folder.name}.part")
    with writing(fresh):
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(parents=True)
    try:
        with progress.task("unpacking", len(model.codes)) as advance:
            payloads = [(key, _payload(model, key, advance)) for key in model.codes]
            write_tensors(fresh / SINGLE, payloads, {"format": "pt"})
        config = model.skeleton.config()
        if config is not None:
            write_json(fresh / "config.json", config)
        _copy_side_files(model, fresh)
        with writing(folder):
            fresh.rename(folder)
    except BaseException:
        shutil.rmtree(fresh, ignore_errors=True)
        raise


def _payload(model: Model, key: str, advance: Callable[[int], None]) -> Payload:
    dtype = dtype_of(model.dtypes[key])
    shape = shape_of(model.codes, key)

    def chunks() -> Iterator[memoryview]:
        yield from chunks_of(restored(model.codes[key], dtype))
        advance(1)

    return Payload(dtype.name, shape, math.prod(shape) * dtype.size, chunks())


def restored(code: Code, dtype: DType) -> NDArray[Any]:
    """A tensor's raw elements in the type it had at first."""
    if isinstance(code, Dense) and code.dtype == dtype:
        return code.raw()
    return from_float32(code.decode(), dtype)
