"""Codes as torch tensors."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from rarefy.codes import Dense

if TYPE_CHECKING:
    from rarefy.codes import Code

TORCH = {
    "F32": torch.float32,
    "BF16": torch.bfloat16,
    "F16": torch.float16,
    "F64": torch.float64,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "U16": torch.uint16,
    "U32": torch.uint32,
    "U64": torch.uint64,
}
"""torch's types by their safetensors names."""


def tensor(code: Code, dtype: torch.dtype) -> torch.Tensor:
    """The code's tensor in `dtype`, on the processor, its memory its own.

    A dense code is taken bit for bit and then cast, so the same type is exact; others decode to float32 first.
    """
    if isinstance(code, Dense):
        raw = code.raw()
        values = torch.from_numpy(raw if raw.flags.writeable else raw.copy()).view(TORCH[code.dtype.name])
    else:
        decoded = code.decode()
        values = torch.from_numpy(decoded if decoded.flags.writeable else decoded.copy())
    return values.to(dtype)
