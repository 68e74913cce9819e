"""Differences are exact for every type and pattern, small where checkpoints are alike, and nothing without a base."""

from __future__ import annotations

import numpy as np
import pytest

from rarefy.codes import Dense
from rarefy.codes.difference import ORDER, WAYS, XOR, Difference, apart
from rarefy.codes.dtypes import DTYPES, DType, dtype_of
from rarefy.errors import UsageError
from rarefy.files import record

RNG = np.random.default_rng(0)


def patterns(dtype: DType, count: int = 4096) -> np.ndarray:
    """Raw elements of every kind: any bits, NaNs, infinities, both zeros among them."""
    raw = RNG.integers(0, 256, count * dtype.size).astype(np.uint8)
    raw[: 2 * dtype.size] = [*[0] * dtype.size, *[0] * (dtype.size - 1), 0x80]
    raw[2 * dtype.size : 3 * dtype.size] = 0xFF
    return (raw % 2).view(dtype.raw) if dtype.name == "BOOL" else raw.view(dtype.raw)


def bits(raw: np.ndarray, dtype: DType) -> np.ndarray:
    return raw.view(f"<u{dtype.size}")


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", DTYPES)
def test_round_trip_through_a_record(name: str, way: int) -> None:
    dtype = dtype_of(name)
    values, base = patterns(dtype).reshape(64, 64), RNG.permutation(patterns(dtype)).reshape(64, 64)
    code = Difference.of(values, base, dtype, way)
    back, restored = record.decode(record.encode(code, name))
    assert restored == name
    assert isinstance(back, Difference)
    np.testing.assert_array_equal(bits(back.against(base), dtype), bits(values, dtype))
    assert back.against(base).shape == values.shape


def test_order_is_the_numbers_order() -> None:
    """One step between neighbours, across zero and powers of two as well; zigzag: a step up is 2, a step down 1."""
    dtype = dtype_of("F32")
    numbers = np.array([-2, -1, -1e-45, -0.0, 0.0, 1e-45, np.nextafter(np.float32(2), np.float32(0)), 2], np.float32)
    up = np.nextafter(numbers, np.float32(np.inf), dtype=np.float32)
    up[3] = 0.0  # nextafter skips the second zero
    np.testing.assert_array_equal(apart(bits(up, dtype), bits(numbers, dtype), dtype, ORDER), 2)
    np.testing.assert_array_equal(apart(bits(numbers, dtype), bits(up, dtype), dtype, ORDER), 1)


def test_same_is_nothing_and_close_is_little() -> None:
    weights = RNG.normal(0, 0.02, (512, 512)).astype(np.float32)
    dtype = dtype_of("F32")
    for way in WAYS:
        assert len(record.encode(Difference.of(weights, weights, dtype, way), "F32")) < 200
    near = weights + RNG.normal(0, 1e-6, weights.shape).astype(np.float32)
    sizes = {way: len(record.encode(Difference.of(near, weights, dtype, way), "F32")) for way in WAYS}
    dense = len(record.encode(Dense.of(near), "F32"))
    assert sizes[ORDER] < sizes[XOR] < dense
    assert sizes[ORDER] < 0.55 * dense


def test_without_its_base_a_difference_has_no_values() -> None:
    code = Difference.of(np.zeros(3, np.float32), np.ones(3, np.float32), dtype_of("F32"), XOR)
    for use in (code.decode, code.free, lambda: code.with_free({}), lambda: code.masked(np.ones(3, bool))):
        with pytest.raises(UsageError, match="another checkpoint.*unpack OUT DIR --base"):
            use()
