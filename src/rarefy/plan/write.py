"""An artifact on disk: records, config, side files, recipe, manifest."""

from __future__ import annotations

import shutil
import time
from collections import ChainMap
from typing import TYPE_CHECKING, Any

from rarefy.errors import FormatError
from rarefy.files import container, manifest, record
from rarefy.files.atomic import write_bytes, write_json, writing
from rarefy.model import LazyCodes, same_values

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

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

    Raises ResourceError, and FormatError when what is read back is not what was to be written.
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
    _prove(model, folder, threads)
    _write_config(model, folder)
    model.skeleton.copy_side_files(folder)
    write_bytes(folder / "recipe.toml", recipe.to_toml().encode())
    manifest.write(folder, sections)


def _prove(model: Model, folder: Path, threads: int) -> None:
    """Read every record back: what was written is what was made."""
    reader = container.Reader(folder)
    try:
        for key, code in model.codes.items():
            if not same_values(reader.code(key, threads)[0], code):
                raise FormatError(f"{key} reads back as another tensor than was written", remedy="report it: a bug")
    finally:
        reader.close()


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
        own = {"quant_method": "rarefy", "version": 1}
        if model.edits:
            own["edits"] = {model.names[key]: edit.to_json() for key, edit in model.edits.items()}
        write_json(folder / "config.json", {**config, "quantization_config": own})
