"""ONNX: one graph that ONNX Runtime runs, with integers of 4 and 8 bits inside.

Matrices in groups are MatMulNBits, embeddings GatherBlockQuantized, all else is the standard's. What is in integers
is so in the file, and the network's own integers are kept wherever they fit.
"""

from __future__ import annotations

import fnmatch
import importlib.util
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from rarefy.codes import Dense, Grid
from rarefy.codes.transposed import Transposed
from rarefy.errors import RarefyError, UsageError
from rarefy.export.nearest import held, nearest
from rarefy.export.onnx_saturation import unsaturated
from rarefy.export.target import Conversion, Held, Target, converted, dense_in
from rarefy.families import is_causal, reads_tokens
from rarefy.files.atomic import write_json
from rarefy.method import setting

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

    from rarefy.codes import Code
    from rarefy.evidence.sources import Arrays
    from rarefy.export.proof import Engine
    from rarefy.families.base import Place
    from rarefy.measure.tasks import Network
    from rarefy.model import Model
    from rarefy.progress import Progress

FILE: Final = "model.onnx"

ROWS: Final = "8 bits, rows"
FLOATS: Final = "F32"

GROUPS: Final = (16, 32, 64, 128, 256)
"""Inputs that may share a scale in MatMulNBits and GatherBlockQuantized."""

GROUP: Final = 32
"""The same, where the network says nothing that fits."""

SPREAD: Final = 128
"""The same, for grids with one scale a row."""

LARGEST: Final = 1_900_000_000
"""Bytes of weights that one file holds: protobuf ends at 2 GiB."""


@dataclass(frozen=True)
class ONNX(Target):
    """One graph for ONNX Runtime."""

    bits: int | None = setting(
        None, "of matrices; none: as the grids have them, 8 for other codes, dense as it is", choices=(None, 4, 8)
    )
    group: int | None = setting(
        None, "inputs that share a scale; none: as the grids have them, else 32", choices=(None, *GROUPS)
    )
    embedding: int | None = setting(None, "bits of the embedding and of a head tied to it", choices=(None, 4, 8))
    activations: str = setting(
        "float32", "int8: matrices and convolutions multiply integers by integers", choices=("float32", "int8")
    )
    calibration: str | None = setting(
        None,
        "an .npz whose x fixes the ranges of activations; none: each tensor's own, as it comes",
    )
    reduce_range: bool = setting(
        False, "with activations=int8: weights such that no sum saturates on processors without VNNI"
    )
    exclude: tuple[str, ...] = setting((), "no matrix whose name fits one of these patterns: it stays in floats")

    def convert(self, model: Model, progress: Progress) -> Conversion:
        _packages()
        from rarefy.families.base import places

        _check(model)
        ranges = self._ranges(model)
        causal, names = is_causal(model), model.keys
        if self.reduce_range and (self.activations != "int8" or causal):
            raise UsageError(
                "onnx: reduce_range is for weights with a scale a row", "nothing else saturates", "leave it out"
            )
        used = {names[place.parameter]: place for place in places(model.skeleton.empty, model.skeleton.ties)}
        excluded = self._excluded(model, used)

        def hold(key: str, code: Code) -> Held:
            if key not in model.names:
                return Held(code, "left out", "the network does not use it")
            place = used.get(key)
            if place is None:
                return _floats(code)
            if key in excluded:
                return _floats(code, "excluded")
            return self._held(code, place, model, rows=self.activations == "int8" and not causal)

        return converted(model, hold, progress, used=used, causal=causal, ranges=ranges)

    def _excluded(self, model: Model, matrices: Collection[str]) -> set[str]:
        """File keys of the matrices that stay in floats. Raises UsageError where a pattern is of none."""
        found: set[str] = set()
        for pattern in self.exclude:
            fits = {key for key in matrices if fnmatch.fnmatchcase(model.names[key], pattern)}
            if not fits:
                raise UsageError(
                    f"onnx: exclude={pattern} fits no matrix of {model.source}", remedy="see rarefy inspect"
                )
            found |= fits
        return found

    def _ranges(self, model: Model) -> Arrays | None:
        from rarefy.evidence.sources import read_arrays

        if self.calibration is None:
            return None
        if self.activations != "int8":
            raise UsageError("onnx: calibration is for activations=int8", remedy="add it, or leave calibration out")
        if reads_tokens(model):
            raise UsageError(
                f"onnx: no ranges are fixed for {model.source}",
                "those of networks that read tokens are taken as they come",
                "leave calibration out",
            )
        return read_arrays(self.calibration)

    def _held(self, code: Code, place: Place, model: Model, *, rows: bool) -> Held:
        """A matrix in integers, where it can be and something asks for them."""
        why = _unlike(place, model)
        if why:
            return _floats(code, why)
        if place.turned:
            inner = self._matrix(code.inner if isinstance(code, Transposed) else Transposed(code), "linear", rows)
            return Held(Transposed(inner.code), inner.form, inner.why) if inner.form != FLOATS else _floats(code)
        return self._matrix(code, place.kind, rows)

    def _matrix(self, code: Code, kind: str, rows: bool) -> Held:
        """A code (out, in, ...) of a matrix that a layer of some kind uses."""
        bits = self.embedding if kind == "embedding" else self.bits
        if kind == "convolution" or (rows and kind == "linear"):
            if isinstance(code, Dense) and bits is None and not rows:
                return _floats(code)
            columns = _size(code) // max(1, code.shape[0])
            how: dict[str, Any] = {"symmetric": True, "scale": "F32"}
            if self.reduce_range and rows:
                return Held(unsaturated(code), f"{ROWS}, unsaturated")
            return Held(held(code, 8, columns, **how) or _balanced(nearest(code, 8, columns, **how)), ROWS)
        if isinstance(code, Dense) and bits is None:
            return _floats(code)
        columns = _size(code) // max(1, code.shape[0])
        group = self._group(code, columns)
        if not group or columns % group:
            return _floats(code, f"its {columns} columns are no multiple of {group or GROUPS[0]}")
        grid = _grid(code, bits, group)
        symmetry = "symmetric" if grid.zero is None else "asymmetric"
        return Held(grid, f"{grid.bits_per_symbol} bits, groups of {grid.group}, {symmetry}")

    def _group(self, code: Code, columns: int) -> int:
        """The one that was asked for, else the largest that the grid and the columns are multiples of; 0: none is."""
        if self.group:
            return self.group
        grid = isinstance(code, Grid)
        most = code.group if isinstance(code, Grid) and code.groups > 1 else SPREAD if grid else GROUP
        return max((group for group in GROUPS if most % group == 0 and columns % group == 0), default=0)

    def write(self, conversion: Conversion, folder: Path, progress: Progress) -> None:
        import onnx_ir as ir

        graph, skeleton = self._graph(conversion, progress), conversion.model.skeleton
        with progress.task("writing", 0):
            large = sum(value.const_value.nbytes for value in graph.graph.initializers.values()) > LARGEST
            ir.save(graph, folder / FILE, external_data=f"{FILE}.data" if large else None)
        config = skeleton.config()
        if config is not None:
            write_json(folder / "config.json", config)
        skeleton.copy_side_files(folder)

    def _graph(self, conversion: Conversion, progress: Progress) -> Any:
        from rarefy.evidence.fingerprint import check_disjoint_examples
        from rarefy.export import onnx_graph, onnx_kernels, onnx_layers, onnx_rounding

        model, chosen, ranges = conversion.model, conversion.settings, conversion.settings["ranges"]
        matrices = {
            key: onnx_layers.Matrix(chosen["used"][key].modules, each.form.startswith(ROWS))
            for key, each in conversion.held.items()
            if isinstance(onnx_layers.inner(each.code), Grid)
        }
        if ranges is not None:
            check_disjoint_examples(ranges.fingerprint(), conversion.data.x)
        with progress.task("tracing", 0):
            rounds = self.activations == "int8" and ranges is None
            network = onnx_layers.integers(model, matrices, rounds=rounds)
            example = None if reads_tokens(model) else conversion.data.x
            graph = onnx_graph.graph_of(network, causal=chosen["causal"], example=example, source=model.source)
        onnx_kernels.tuned(graph)
        onnx_rounding.fold_norms(graph)
        if ranges is not None:
            with progress.task("taking ranges", 0):
                onnx_rounding.fix_ranges(graph, ranges.x)
        graph.producer_name, graph.producer_version = "rarefy", None
        return graph

    def rounded(self, folder: Path) -> Network | None:
        from rarefy.export.onnx_runtime import Session

        return Session(folder / FILE) if self.activations == "int8" else None

    def engines(self, conversion: Conversion) -> list[Engine]:
        from rarefy.export.onnx_runtime import Runtime

        return [Runtime(FILE, causal=conversion.settings["causal"], rounds=self.activations == "int8")]


TARGET = ONNX


def _packages() -> None:
    for name in ("onnx", "onnxscript", "onnxruntime"):
        if importlib.util.find_spec(name) is None:
            raise RarefyError("ONNX cannot be written", f"{name} is not installed", "pip install rarefy[onnx]")


def _check(model: Model) -> None:
    """Raise UsageError for networks that are called in a way that one graph is not."""
    if (model.skeleton.config() or {}).get("is_encoder_decoder"):
        raise UsageError(
            f"{model.source} cannot be exported to ONNX",
            "an encoder and a decoder are two graphs, and one is written here",
            "use --to safetensors",
        )


def _unlike(place: Place, model: Model) -> str:
    """Why a matrix stays as it is, or ""."""
    from torch import nn

    from rarefy.families.base import turns

    for path in place.modules:
        layer = model.skeleton.empty.get_submodule(path)
        if not (type(layer) in (nn.Linear, nn.Embedding, nn.Conv1d, nn.Conv2d, nn.Conv3d) or turns(layer)):
            return f"a {type(layer).__name__} does more than look up or multiply"
    return ""


def _floats(code: Code, why: str = "") -> Held:
    dense = dense_in(code, FLOATS)
    return Held(dense, dense.dtype.name, why)


def _balanced(grid: Grid) -> Grid:
    """Without -128, whose negative is no signed 8-bit integer: a normalization with a negative gain turns signs."""
    return Grid(np.maximum(grid.q, 1), grid.scale, None, bits_per_symbol=8, group=grid.group, shape=grid.shape)


def _grid(code: Code, bits: int | None, group: int) -> Grid:
    """A code's own levels in the smallest form that holds them, else the nearest."""
    if isinstance(code, Grid):
        for width in (bits,) if bits else (4, 8):
            found = held(code, width, group, symmetric=code.zero is None, scale=code.scale.dtype.name)
            if found is not None:
                return found
    return nearest(code, bits or 8, group, symmetric=False, scale="BF16")


def _size(code: Code) -> int:
    return math.prod(code.shape)
