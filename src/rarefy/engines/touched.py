"""Bytes of a file's weights that one more token reads: all, but for tables of which it reads a row."""

from __future__ import annotations

import importlib.util
from pathlib import Path

_LOOKED_UP = ("token_embd.weight", "position_embd.weight", "token_types.weight")


def touched(file: str) -> int | None:
    """Of a .gguf or an .onnx; None where tokens choose what they read, or where nothing here reads the file."""
    path = Path(file)
    read = {".gguf": ("gguf", _gguf), ".onnx": ("onnx_ir", _onnx)}.get(path.suffix)
    return read[1](path) if read and importlib.util.find_spec(read[0]) else None


def _gguf(path: Path) -> int | None:
    from gguf import GGUFReader

    sizes = {tensor.name: int(tensor.n_bytes) for tensor in GGUFReader(path).tensors}
    if any("_exps." in name for name in sizes):
        return None
    tied = "output.weight" not in sizes
    return sum(size for name, size in sizes.items() if name not in _LOOKED_UP or (tied and name == "token_embd.weight"))


def _onnx(path: Path) -> int:
    """Initializers that something else than a look-up of rows takes, as they are stored."""
    import onnx_ir

    found = 0
    for value in onnx_ir.load(path).graph.initializers.values():
        if any(not node.op_type.startswith("Gather") for node, _ in value.uses()):
            found += int(value.const_value.nbytes)
    return found
