"""Grids in other grids' forms: the same values where they fit, the least error where they do not."""

from __future__ import annotations

import numpy as np
import pytest
from export.coded import grid

from rarefy.codes import Dense, Grid
from rarefy.export.nearest import SHRINK, held, nearest
from rarefy.maths import affine

W = np.random.default_rng(1).standard_t(4, (12, 96)).astype(np.float32)


@pytest.mark.parametrize(
    ("bits", "group", "symmetric", "to_bits", "to_group", "to_symmetric"),
    [
        (4, 32, True, 4, 32, True),
        (4, 96, True, 4, 32, True),
        (3, 32, True, 4, 16, True),
        (4, 32, False, 4, 32, False),
        (4, 0, False, 5, 32, True),
        (3, 32, False, 4, 32, True),
        (2, 32, True, 8, 32, False),
        (4, 0, True, 4, 96, True),
    ],
)
def test_what_fits_keeps_its_values(bits, group, symmetric, to_bits, to_group, to_symmetric) -> None:
    before = grid(bits, group, symmetric)(W)
    after = held(before, to_bits, to_group, symmetric=to_symmetric, scale="F32")
    assert after is not None and (after.bits_per_symbol, after.group) == (to_bits, to_group)
    assert (after.zero is None) == to_symmetric
    np.testing.assert_array_equal(after.decode(), before.decode())


@pytest.mark.parametrize(
    ("bits", "group", "symmetric", "to_bits", "to_group", "to_symmetric"),
    [
        (8, 32, True, 4, 32, True),  # too many levels
        (4, 32, False, 4, 32, True),  # levels too far from zero
        (4, 16, True, 4, 32, True),  # two scales in a group
        (4, 48, True, 4, 32, True),
        (8, 32, False, 4, 32, False),
    ],
)
def test_what_does_not_fit_is_not_forced(bits, group, symmetric, to_bits, to_group, to_symmetric) -> None:
    assert held(grid(bits, group, symmetric)(W), to_bits, to_group, symmetric=to_symmetric, scale="F32") is None
    assert held(Dense.of(W), to_bits, to_group, symmetric=to_symmetric, scale="F32") is None


def test_one_scale_for_the_whole_tensor_serves_every_group() -> None:
    q = np.random.default_rng(2).integers(0, 16, W.shape, np.uint8)
    scale = Dense.of(np.full((1, 1), 0.125, np.float32))
    before = Grid(q, scale, None, bits_per_symbol=4, group=96, shape=W.shape)
    after = held(before, 4, 32, symmetric=True, scale="F32")
    assert after is not None
    np.testing.assert_array_equal(after.decode(), before.decode())


@pytest.mark.parametrize("symmetric", [True, False])
def test_nearest_is_the_best_of_its_candidates_group_by_group(symmetric: bool) -> None:
    made = nearest(Dense.of(W), 4, 32, symmetric=symmetric, scale="F16").decode()
    for row, values in zip(W, made, strict=True):
        for start in range(0, 96, 32):
            part, own = row[start : start + 32], values[start : start + 32]
            errors = []
            for share in map(np.float32, SHRINK):
                low, high = np.minimum(part.min() * share, 0), np.maximum(part.max() * share, 0)
                s, z = affine.fit(low[None], high[None], 4, symmetric=symmetric, scale_dtype="F16")
                errors.append(sum(_off(w, s[0], z[0]) for w in part))
            assert np.square(own - part).sum() == pytest.approx(min(errors), rel=1e-4)


def _off(w: float, s: float, z: float) -> float:
    return min(((k - z) * s - w) ** 2 for k in range(16))


def test_less_than_the_whole_range_can_be_nearer() -> None:
    plain = nearest_error(shares=(1.0,))
    assert nearest_error(shares=SHRINK) < 0.97 * plain


def nearest_error(shares: tuple[float, ...]) -> float:
    from unittest import mock

    with mock.patch("rarefy.export.nearest.SHRINK", shares):
        made = nearest(Dense.of(W), 4, 32, symmetric=False, scale="F32").decode()
    return float(np.square(made - W).sum())
