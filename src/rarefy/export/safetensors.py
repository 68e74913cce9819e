"""safetensors: dense, in any floating type, a directory that transformers and every tool beside it opens."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from rarefy.codes import Dense
from rarefy.codes.dtypes import DType, dtype_of, from_float32
from rarefy.export.proof import Engine, opened_by
from rarefy.export.target import Conversion, Held, Target, converted, dense_in
from rarefy.files.atomic import whole_folder, write_json
from rarefy.files.directory import SINGLE
from rarefy.files.safetensors import Payload, chunks_of
from rarefy.files.safetensors import write as write_tensors
from rarefy.method import setting
from rarefy.model import shape_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from rarefy.codes import Code
    from rarefy.model import Model
    from rarefy.progress import Progress

TORCH_NAMES: Final = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}


@dataclass(frozen=True)
class Safetensors(Target):
    """Dense weights."""

    dtype: str = setting("as it was", "of all floating tensors", choices=("as it was", *TORCH_NAMES.values()))

    def convert(self, model: Model, progress: Progress) -> Conversion:
        types = types_in(model, self.dtype)
        made = converted(model, lambda key, code: Held(dense_in(code, types[key]), types[key]), progress)
        return dataclasses.replace(made, model=dataclasses.replace(made.model, dtypes=types))

    def write(self, conversion: Conversion, folder: Path, progress: Progress) -> None:
        write_dense(conversion.model, folder, progress, config_in(conversion.model, self.dtype))

    def engines(self, conversion: Conversion) -> list[Engine]:
        return [opened_by(conversion.model)]


TARGET = Safetensors


def types_in(model: Model, dtype: str) -> dict[str, str]:
    """File key -> element type, all floating ones torch's `dtype` unless they are to stay as they were."""
    by_name = {name: kind for kind, name in TORCH_NAMES.items()}
    wanted = by_name.get(dtype)
    return {
        key: wanted if wanted is not None and dtype_of(kind).floating else kind for key, kind in model.dtypes.items()
    }


def config_in(model: Model, dtype: str) -> dict[str, Any] | None:
    """config.json, saying the element type that was asked for."""
    config = model.skeleton.config()
    if config is None or dtype == "as it was":
        return config
    return {**{key: value for key, value in config.items() if key != "torch_dtype"}, "dtype": dtype}


def unpack(model: Model, folder: Path, progress: Progress) -> None:
    """Write `model` as an ordinary directory of dense safetensors, whole or not at all.

    Every tensor has its original element type; what was stored dense in it comes back bit for bit.
    Raises UsageError when `folder` exists, ResourceError when it cannot be written.
    """
    with whole_folder(folder) as fresh:
        write_dense(model, fresh, progress, model.skeleton.config())


def write_dense(model: Model, folder: Path, progress: Progress, config: dict[str, Any] | None) -> None:
    """Weights, config.json and side files."""
    with progress.task("unpacking", len(model.codes)) as advance:
        write_tensors(folder / SINGLE, [(key, payload(model, key, advance)) for key in model.codes], {"format": "pt"})
    if config is not None:
        write_json(folder / "config.json", config)
    model.skeleton.copy_side_files(folder)


def payload(model: Model, key: str, advance: Callable[[int], None]) -> Payload:
    """A tensor in the type that it had at first, decoded when its turn comes."""
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
