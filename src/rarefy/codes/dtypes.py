"""Element types by their safetensors names, held in NumPy arrays even where NumPy lacks the type.

A bf16 or fp8 tensor is held as unsigned integers of its width ("raw"), bit for bit.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from rarefy.errors import FormatError

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True)
class DType:
    """One element type.

    name: as safetensors writes it.
    raw: the little-endian NumPy type that holds its bits.
    number: in files.
    exponent, mantissa: widths in bits for floats, 0 for integers.
    """

    name: str
    raw: np.dtype[Any]
    number: int
    exponent: int = 0
    mantissa: int = 0

    @property
    def floating(self) -> bool:
        return self.exponent > 0

    @property
    def size(self) -> int:
        """Bytes an element."""
        return self.raw.itemsize


_TYPES = [
    ("F32", "<f4", 8, 23),
    ("BF16", "<u2", 8, 7),
    ("F16", "<f2", 5, 10),
    ("F64", "<f8", 11, 52),
    ("I64", "<i8", 0, 0),
    ("I32", "<i4", 0, 0),
    ("I16", "<i2", 0, 0),
    ("I8", "i1", 0, 0),
    ("U8", "u1", 0, 0),
    ("BOOL", "?", 0, 0),
    ("F8_E4M3", "u1", 4, 3),
    ("F8_E5M2", "u1", 5, 2),
    ("U16", "<u2", 0, 0),
    ("U32", "<u4", 0, 0),
    ("U64", "<u8", 0, 0),
]
DTYPES = {name: DType(name, np.dtype(raw), i, e, m) for i, (name, raw, e, m) in enumerate(_TYPES)}
BY_NUMBER = {dtype.number: dtype for dtype in DTYPES.values()}


def dtype_of(name: str) -> DType:
    """The type called `name`. Raises FormatError for one that Rarefy does not know."""
    try:
        return DTYPES[name]
    except KeyError:
        raise FormatError(f"element type {name} is not supported", remedy=f"known are {', '.join(DTYPES)}") from None


def to_float32(raw: NDArray[Any], dtype: DType) -> NDArray[np.float32]:
    """Values of raw elements. Integers beyond 2^24 and float64 round to the nearest float32."""
    values: NDArray[np.float32]
    if dtype.name == "BF16":
        wide = raw.astype("<u4")
        wide <<= np.uint32(16)
        values = wide.view("<f4")
    elif dtype.size == 1 and dtype.floating:
        values = _fp8_values(dtype)[raw]
    else:
        with np.errstate(over="ignore"):
            values = raw.astype(np.float32)
    return np.asarray(values)  # NumPy's operators turn arrays without dimensions into scalars


def from_float32(values: NDArray[np.float32], dtype: DType) -> NDArray[Any]:
    """Raw elements nearest to the values, ties to even; integers saturate. Raises FormatError for fp8."""
    values = np.asarray(values, "<f4", order="C")  # ascontiguousarray would make a scalar a vector
    if dtype.name == "BF16":
        bits = values.view("<u4")
        with np.errstate(over="ignore"):  # NaNs, which `nan` takes care of
            rounded = (bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)
        nan = (bits >> np.uint32(16)) | np.uint32(0x0040)
        return np.where(np.isnan(values), nan, rounded).astype("<u2")
    if dtype.size == 1 and dtype.floating:
        raise FormatError(f"values are not rounded to {dtype.name}", remedy="store them as BF16")
    with np.errstate(over="ignore", invalid="ignore"):  # past the largest number is infinity, as IEEE 754 has it
        return (values if dtype.floating else _integers(values, dtype.raw)).astype(dtype.raw)


def _integers(values: NDArray[np.float32], raw: np.dtype[Any]) -> NDArray[np.float64]:
    """The nearest integers that `raw` holds, as float64."""
    rounded: NDArray[np.float64] = np.rint(values.astype(np.float64))
    if raw.kind == "b":
        return rounded
    info = np.iinfo(raw)
    # float64 rounds 2^63 - 1 up to 2^63, which would wrap around.
    return rounded.clip(info.min, info.max if raw.itemsize < 8 else np.nextafter(float(info.max), 0))


def _fp8_values(dtype: DType) -> NDArray[np.float32]:
    """The 256 values of an fp8 type (Micikevicius et al. 2022, "FP8 formats for deep learning")."""
    byte = np.arange(256)
    exponent = (byte >> dtype.mantissa) & ((1 << dtype.exponent) - 1)
    mantissa = byte & ((1 << dtype.mantissa) - 1)
    bias = (1 << (dtype.exponent - 1)) - 1
    fraction = mantissa / (1 << dtype.mantissa) + (exponent > 0)
    values = np.ldexp(fraction, np.maximum(exponent, 1) - bias)
    top = exponent == (1 << dtype.exponent) - 1
    if dtype.name == "F8_E5M2":
        values[top] = np.where(mantissa[top] == 0, np.inf, np.nan)
    else:
        values[top & (mantissa == 7)] = np.nan
    signed: NDArray[np.float32] = np.where(byte & 0x80, -values, values).astype(np.float32)
    return signed
