"""compressed-tensors: integers of 4 or 8 bits that vLLM and transformers open, packed in groups ("pack-quantized") or,
where inputs are quantized too, 8 bits a row ("int-quantized").

One scheme for all linear layers inside the network, so that engines may fuse q, k and v. What lies on a grid that the
scheme holds keeps its very integers; anything else goes to the nearest grid. The output head, embeddings and all that
is no linear layer stay dense.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from rarefy.codes import Grid
from rarefy.codes.dtypes import dtype_of
from rarefy.errors import RarefyError, UsageError
from rarefy.export.nearest import held, nearest
from rarefy.export.proof import Engine, Program, transformers_engine
from rarefy.export.safetensors import TORCH_NAMES, config_in, payload, types_in
from rarefy.export.target import Conversion, Held, Target, converted, dense_in, linears
from rarefy.families import is_causal
from rarefy.files.atomic import write_json
from rarefy.files.directory import SINGLE
from rarefy.files.safetensors import Payload, chunks_of, write
from rarefy.method import setting
from rarefy.model import shape_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from rarefy.codes import Code
    from rarefy.edits import QuantizedInput
    from rarefy.model import Model
    from rarefy.progress import Progress

GROUP = 64
"""Inputs that share a scale, where the network says nothing of groups."""

RESTORED = 0.003
"""Nats that transformers may cost where it restores weights in the type of 16-bit scales."""

HALF = 0.02
"""Nats that vLLM's arithmetic may cost: it keeps its own order of sums, and 16 bits where it likes."""


@dataclass(frozen=True)
class Scheme:
    """How the linear layers are held. group: 0 for one scale an output row. inputs: how they are quantized, "dynamic"
    or "static", or "" for not at all."""

    bits: int
    group: int
    symmetric: bool
    inputs: str = ""

    def __str__(self) -> str:
        groups = f"groups of {self.group}" if self.group else "rows"
        inputs = f", {self.inputs} inputs of 8 bits" if self.inputs else ""
        return f"{self.bits} bits, {groups}, {'symmetric' if self.symmetric else 'asymmetric'}{inputs}"


@dataclass(frozen=True)
class CompressedTensors(Target):
    """Weights of 4 or 8 bits, activations of 16 (W4A16, W8A16), or of 8 where the network has them so (W8A8)."""

    runs_edits: ClassVar[bool] = True

    bits: int | None = setting(
        None, "bits a weight, 4 or 8; none: as the network has them, else 4", choices=(None, 4, 8)
    )
    group: int | None = setting(
        None, "inputs that share a scale; 0: a row; none: as the network has them, else 64", low=0
    )
    symmetric: bool | None = setting(None, "zero point in the middle; none: where the network has it so")
    dtype: str = setting(
        "as it was", "of all that is not packed, scales too", choices=("as it was", *TORCH_NAMES.values())
    )

    def convert(self, model: Model, progress: Progress) -> Conversion:
        if model.skeleton.config() is None:
            raise UsageError(
                f"{model.source} cannot be held by compressed-tensors",
                "it is no network of transformers",
                "use --to safetensors",
            )
        types, paths = types_in(model, self.dtype), self._taken(model)
        scheme = self._scheme(model, list(paths))

        def hold(key: str, code: Code) -> Held:
            dense = Held(dense_in(code, types[key]), types[key])
            if key not in paths:
                return dense
            columns = shape_of(model.codes, key)[1]
            group = scheme.group or columns
            if columns % group:
                return dataclasses.replace(dense, why=f"its {columns} inputs are no multiple of groups of {group}")
            how: dict[str, Any] = {"symmetric": scheme.symmetric, "scale": types[key]}
            grid = held(code, scheme.bits, group, **how) or nearest(code, scheme.bits, group, **how)
            return Held(grid, str(scheme))

        made = converted(model, hold, progress, scheme=scheme)
        inside = {key: edit for key, edit in model.edits.items() if made.held[key].form == str(scheme)}
        return dataclasses.replace(made, model=dataclasses.replace(made.model, dtypes=types, edits=inside))

    def _taken(self, model: Model) -> dict[str, str]:
        """File key -> module path of the layers to be packed: those that are coded, or all where none is."""
        found = dict(linears(model))
        coded = {key: path for key, path in found.items() if model.codes[key].node().kind != 0 or key in model.edits}
        if not found:
            raise UsageError(
                f"{model.source} cannot be held by compressed-tensors",
                "it holds linear layers of a network's body, and this one has none",
                "use --to safetensors or onnx",
            )
        return coded or found

    def _scheme(self, model: Model, keys: list[str]) -> Scheme:
        """What was asked for, the rest as the grids of the network have it."""
        grids = [code for key in keys if isinstance(code := model.codes[key], Grid)]
        groups = [grid.group for grid in grids if grid.groups > 1]
        bits = 4 if all(grid.bits_per_symbol <= 4 for grid in grids) else 8
        group = math.gcd(*groups) if groups else 0 if grids else GROUP
        symmetric = bool(grids) and all(grid.zero is None for grid in grids)
        own = Scheme(bits, group, symmetric)
        asked: dict[str, Any] = {"bits": self.bits, "group": self.group, "symmetric": self.symmetric}
        chosen = dataclasses.replace(own, **{name: given for name, given in asked.items() if given is not None})
        edits = [model.edits.get(key) for key in keys]
        inputs = {_how(edit) for edit in edits}
        if inputs == {""}:
            return chosen
        if len(inputs) > 1 or {edit.bits for edit in edits if edit} != {8} or chosen != Scheme(8, 0, symmetric=True):
            raise UsageError(
                f"{model.source} cannot be held by compressed-tensors as it is asked for",
                "where inputs are quantized, all layers have theirs alike, and 8 symmetric bits with one scale a row",
                "compress all of them with quantize.w8a8, and leave out bits, group and symmetric",
            )
        return dataclasses.replace(chosen, inputs=inputs.pop())

    def write(self, conversion: Conversion, folder: Path, progress: Progress) -> None:
        model, packed = conversion.model, _packed(conversion)
        with progress.task("writing", len(model.codes)) as advance:

            def tensors() -> Iterator[tuple[str, Payload]]:
                for key in model.codes:
                    if key in packed:
                        edit = model.edits.get(key)
                        yield from _tensors(key.removesuffix("weight"), packed[key], model.dtypes[key], edit)
                        advance(1)
                    else:
                        yield key, payload(model, key, advance)

            write(folder / SINGLE, tensors(), {"format": "pt"})
        config = config_in(model, self.dtype)
        assert config is not None
        write_json(folder / "config.json", {**config, "quantization_config": _config(conversion, packed)})
        model.skeleton.copy_side_files(folder)

    def engines(self, conversion: Conversion) -> list[Engine]:
        _package()
        scheme, dtypes = conversion.settings["scheme"], conversion.model.dtypes
        reader = transformers_engine(conversion.model)
        if not scheme.symmetric and any(dtypes[key] != "F32" for key in _packed(conversion)):
            reader = dataclasses.replace(reader, limit=RESTORED)
        elif scheme.inputs == "dynamic":
            reader = dataclasses.replace(reader, limit=HALF)  # its grid of a token's inputs is max |x| / 127.5
        serves = is_causal(conversion.model)
        return [reader, *([Program("vLLM", "vllm", "vllm", "vllm.py", HALF)] if serves else [])]


TARGET = CompressedTensors


def _how(edit: QuantizedInput | None) -> str:
    """How a layer's inputs are quantized; "" where they are not."""
    if edit is None:
        return ""
    return "dynamic" if edit.scale is None else "static"


def _package() -> Any:
    try:
        import compressed_tensors
    except ImportError:
        raise RarefyError(
            "compressed-tensors cannot be written",
            "its package is not installed",
            "pip install rarefy[compressed-tensors]",
        ) from None
    return compressed_tensors


def _packed(conversion: Conversion) -> dict[str, Grid]:
    """File key -> grid, of the layers that are packed."""
    scheme = str(conversion.settings["scheme"])
    grids = {key: each.code for key, each in conversion.held.items() if each.form == scheme}
    return {key: grid for key, grid in grids.items() if isinstance(grid, Grid)}


def _config(conversion: Conversion, packed: Iterable[str]) -> dict[str, Any]:
    """config.json's quantization_config."""
    from torch import nn

    _package()
    from compressed_tensors.quantization import QuantizationArgs, QuantizationConfig, QuantizationScheme

    model, scheme = conversion.model, conversion.settings["scheme"]
    inside = {model.names[key].removesuffix(".weight") for key in packed}
    layers = (path for path, layer in model.skeleton.empty.named_modules() if isinstance(layer, nn.Linear))
    weights = QuantizationArgs(
        num_bits=scheme.bits,
        symmetric=scheme.symmetric,
        strategy="group" if scheme.group else "channel",
        group_size=scheme.group or None,
    )
    inputs = None
    if scheme.inputs:
        dynamic = scheme.inputs == "dynamic"
        inputs = QuantizationArgs(num_bits=8, strategy="token" if dynamic else "tensor", dynamic=dynamic)
    config = QuantizationConfig(
        config_groups={"group_0": QuantizationScheme(targets=["Linear"], weights=weights, input_activations=inputs)},
        format="int-quantized" if scheme.inputs else "pack-quantized",
        quantization_status="compressed",
        ignore=[path for path in layers if path not in inside],
    )
    found: dict[str, Any] = config.model_dump(mode="json")
    if not scheme.symmetric:
        # transformers 5.23 has no place for packed zero points unless it restores the weights while it loads.
        found["dequantize"] = True
    return found


def _tensors(prefix: str, grid: Grid, dtype: str, edit: QuantizedInput | None) -> Iterator[tuple[str, Payload]]:
    """A layer's tensors: levels less 2^(bits - 1), as bytes where inputs are quantized; scales; what is packed else."""
    parts = _packed_words(grid) if edit is None else {"weight": ("I8", (grid.q ^ 128).view(np.int8))}
    parts["weight_scale"] = (dtype, grid.scale.raw())
    if edit is not None and edit.scale is not None:
        parts["input_scale"] = ("F32", np.array([edit.scale], np.float32))
    for name, (kind, values) in parts.items():
        size = values.size * dtype_of(kind).size
        yield prefix + name, Payload(kind, tuple(values.shape), size, chunks_of(values))


def _packed_words(grid: Grid) -> dict[str, tuple[str, NDArray[Any]]]:
    """Levels and zero points packed into 32-bit words, both less 2^(bits - 1), as the package has it; the shape."""
    _package()
    import torch
    from compressed_tensors.compressors.pack_quantized import pack_to_int32

    middle = 1 << (grid.bits_per_symbol - 1)

    def words(levels: Any, dim: int) -> Any:
        signed = torch.from_numpy((levels.astype(np.int16) - middle).astype(np.int8))
        return pack_to_int32(signed, grid.bits_per_symbol, packed_dim=dim).contiguous().numpy()

    parts = {
        "weight_packed": ("I32", words(grid.q, 1)),
        "weight_shape": ("I64", np.array(grid.q.shape, np.int64)),
    }
    if grid.zero is not None:
        parts["weight_zero_point"] = ("I32", words(grid.zero, 0))
    return parts
