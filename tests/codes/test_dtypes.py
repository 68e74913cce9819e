"""Element types: every bit pattern, and rounding as torch and NumPy do it."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

from rarefy.codes.dtypes import DTYPES, dtype_of, from_float32, to_float32
from rarefy.errors import FormatError

torch = pytest.importorskip("torch")

NAMES = {"BF16": torch.bfloat16, "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2, "F16": torch.float16}


@pytest.mark.parametrize("name", sorted(NAMES))
def test_every_bit_pattern_has_torchs_value(name: str) -> None:
    dtype = DTYPES[name]
    bits = np.arange(1 << 8 * dtype.size).astype(f"<u{dtype.size}")
    expected = torch.from_numpy(bits.view(f"<i{dtype.size}")).view(NAMES[name]).float().numpy()
    np.testing.assert_array_equal(to_float32(bits.view(dtype.raw), dtype), expected)


@pytest.mark.parametrize("name", ["BF16", "F16"])
def test_rounding_is_torchs(name: str) -> None:
    bits = np.random.default_rng(0).integers(0, 1 << 32, 10**5, dtype=np.uint32)
    bits[:4] = [0x7F7FFFFF, 0x3F808000, 0x3F818000, 0x00008000]
    values = bits.view(np.float32)
    values = values[~np.isnan(values)]
    expected = torch.from_numpy(values).to(NAMES[name]).float().numpy()
    np.testing.assert_array_equal(to_float32(from_float32(values, DTYPES[name]), DTYPES[name]), expected)


@pytest.mark.parametrize("name", ["BF16", "F16", "F32", "F64"])
@pytest.mark.parametrize("shape", [(), (3,), (0,), (2, 2)])
def test_shapes_and_nans_survive(name: str, shape: tuple[int, ...]) -> None:
    values = np.full(shape, 0xFFFFFFFF, np.uint32).view(np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        raw = from_float32(values, DTYPES[name])
        back = to_float32(raw, DTYPES[name])
    assert raw.shape == back.shape == shape
    assert raw.dtype == DTYPES[name].raw
    assert np.isnan(back).all()


def test_infinity_beyond_the_largest() -> None:
    values = np.array([1e5, -1e39], np.float64)
    with np.errstate(over="ignore"):
        assert from_float32(values.astype(np.float32), DTYPES["F16"]).tolist() == [np.inf, -np.inf]
    assert to_float32(values, DTYPES["F64"]).tolist() == [1e5, -np.inf]


def test_integers_round() -> None:
    assert from_float32(np.array([0.5, 1.5, -2.6], np.float32), DTYPES["I8"]).tolist() == [0, 2, -3]
    far = np.array([1e30, -1e30], np.float32)
    assert from_float32(far, DTYPES["I8"]).tolist() == [127, -128]
    assert from_float32(far, DTYPES["U8"]).tolist() == [255, 0]
    assert from_float32(far, DTYPES["I64"]).tolist() == [2**63 - 1024, -(2**63)]


def test_what_is_refused() -> None:
    with pytest.raises(FormatError, match="F4 is not supported; known are F32"):
        dtype_of("F4")
    with pytest.raises(FormatError, match="not rounded to F8_E4M3"):
        from_float32(np.zeros(1, np.float32), DTYPES["F8_E4M3"])


def test_numbers_are_part_of_the_format() -> None:
    names = "F32 BF16 F16 F64 I64 I32 I16 I8 U8 BOOL F8_E4M3 F8_E5M2 U16 U32 U64"
    assert [DTYPES[name].number for name in names.split()] == list(range(15))
