"""Differences are exact for every type and pattern, small where checkpoints are alike, and nothing without a base."""

from __future__ import annotations

import numpy as np
import pytest

from rarefy.codes import Dense
from rarefy.codes.difference import ORDER, RUN, WAYS, XOR, Difference, apart, together
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


def literal(values: np.ndarray, base: np.ndarray, dtype: DType, way: int) -> list[int]:
    """Differences one by one, in Python's integers."""
    width, whole = 8 * dtype.size, 1 << 8 * dtype.size

    def position(bits: int) -> int:
        if not dtype.floating:
            return bits
        return whole - 1 - bits if bits >> width - 1 else bits | whole >> 1

    found = []
    for v, b in zip(values.tolist(), base.tolist(), strict=True):
        step = (position(v) - position(b)) % whole
        step = 2 * step if step < whole // 2 else 2 * (whole - step) - 1
        exponent = (b % (whole >> 1)) >> dtype.mantissa if dtype.floating else 0
        found.append((exponent, v ^ b if way == XOR else step))
    runs = [found[i : i + RUN] for i in range(0, len(found), RUN)]
    return [step for run in runs for _, step in sorted(run, key=lambda item: item[0])]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", DTYPES)
def test_kernel_is_the_literal_version(name: str, way: int) -> None:
    dtype = dtype_of(name)
    values, base = bits(patterns(dtype), dtype), bits(RNG.permutation(patterns(dtype)), dtype)
    steps = apart(values, base, dtype, way)
    assert steps.tolist() == literal(values, base, dtype, way)
    np.testing.assert_array_equal(together(steps, base, dtype, way), values)


def test_runs_are_sorted_each_by_itself() -> None:
    dtype = dtype_of("BF16")
    values, base = RNG.integers(0, 1 << 16, (2, 2 * RUN + 100), np.uint16)
    steps = apart(values, base, dtype, ORDER)
    np.testing.assert_array_equal(steps[RUN : 2 * RUN], apart(values[RUN : 2 * RUN], base[RUN : 2 * RUN], dtype, ORDER))
    np.testing.assert_array_equal(together(steps, base, dtype, ORDER), values)


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
    assert set(apart(bits(up, dtype), bits(numbers, dtype), dtype, ORDER).tolist()) == {2}
    assert set(apart(bits(numbers, dtype), bits(up, dtype), dtype, ORDER).tolist()) == {1}


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
