"""Codes of every kind, as hypothesis strategies."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from hypothesis import strategies as st

from rarefy.codes import Codebook, Dense, Grid, Sparse
from rarefy.codes.base import matrix
from rarefy.codes.dtypes import DTYPES
from rarefy.codes.factored import Factored, fits
from rarefy.codes.positions import Positions
from rarefy.codes.scaled import Scaled
from rarefy.codes.summed import Sum
from rarefy.codes.transposed import Transposed

if TYPE_CHECKING:
    from collections.abc import Callable

    from rarefy.codes import Code

shapes = st.lists(st.integers(0, 9), max_size=4).map(tuple)


def rng(draw: Callable) -> np.random.Generator:
    return np.random.default_rng(draw(st.integers(0, 2**32)))


@st.composite
def dense(draw: Callable, shape: tuple[int, ...] | None = None) -> Dense:
    """Any bits of any type: NaN payloads, subnormals, infinities."""
    shape = draw(shapes) if shape is None else shape
    dtype = DTYPES[draw(st.sampled_from(sorted(DTYPES)))]
    count = int(np.prod(shape, dtype=np.int64))
    octets = rng(draw).integers(0, 2 if dtype.name == "BOOL" else 256, count * dtype.size, dtype=np.uint8)
    raw = octets.view(dtype.raw).reshape(shape)
    return Dense(lambda: raw, shape, dtype)


@st.composite
def grid(draw: Callable, shape: tuple[int, ...] | None = None) -> Grid:
    """Affine or symmetric; per tensor, channel or group, the last group short or not."""
    shape = draw(shapes) if shape is None else shape
    rows, columns = matrix(shape)
    bits, group = draw(st.integers(1, 8)), draw(st.integers(1, 12))
    whole = draw(st.booleans())
    if whole or draw(st.booleans()):
        group = max(columns, 1)
    each = (1 if whole else rows, max(1, -(-columns // group)))
    random = rng(draw)
    scale = Dense.of(random.random(each, np.float32) + np.float32(0.1), draw(st.sampled_from(["F32", "F16", "BF16"])))
    zero = random.integers(0, 1 << bits, each).astype(np.uint8) if draw(st.booleans()) else None
    q = random.integers(0, 1 << bits, (rows, columns)).astype(np.uint8)
    return Grid(q, scale, zero, bits_per_symbol=bits, group=group, shape=shape)


@st.composite
def codebook(draw: Callable, shape: tuple[int, ...] | None = None) -> Codebook:
    """Any number of centroids, zero among them or not, in either order."""
    shape = draw(shapes) if shape is None else shape
    random, size = rng(draw), draw(st.integers(1, 256))
    values = random.normal(size=size) + draw(st.sampled_from([-9, 0, 9]))
    centroids = Dense.of(np.sort(values * (values > -1)).astype(np.float32), draw(st.sampled_from(["F32", "BF16"])))
    index = random.integers(0, size, shape, dtype=np.uint8)
    return Codebook(centroids, np.asarray(index), order=draw(st.integers(0, 1)))


@st.composite
def factored(draw: Callable, shape: tuple[int, ...]) -> Factored:
    """Dense factors or grids, of any rank that fits."""
    out, columns = matrix(shape)
    rank = draw(st.integers(1, out * columns // (out + columns)))
    a, b = (draw(st.one_of(dense(s), grid(s))) for s in ((out, rank), (rank, columns)))
    return Factored(a, b, shape=shape)


@st.composite
def scaled(draw: Callable, shape: tuple[int, ...]) -> Scaled:
    """Scales of runs of any length, of each row or of all."""
    out, columns = matrix(shape)
    group = draw(st.integers(1, 12))
    count = draw(st.sampled_from([1, out])) * max(1, -(-columns // group))
    scale = draw(st.one_of(dense((count,)), grid((count,))))
    return Scaled(scale, draw(st.one_of(dense(shape), grid(shape), codebook(shape))), group=group)


@st.composite
def codes(draw: Callable) -> Code:
    """A dense tensor, grid or codebook, scaled or not, under up to two supports, plain or
    corrected, matrices either way round; or two factors."""
    shape = draw(shapes)
    code: Code = draw(st.one_of(dense(shape), grid(shape), codebook(shape), scaled(shape)))
    for _ in range(draw(st.integers(0, 2))):
        keep = rng(draw).random(shape) < draw(st.floats(0, 1))
        code = code.masked(keep) if draw(st.booleans()) else draw(st.sampled_from([Sparse, Positions]))(keep, code)
    if len(shape) == 2 and draw(st.booleans()):
        code, shape = Transposed(code), shape[::-1]
    if fits(1, shape) and draw(st.booleans()):
        low = draw(factored(shape))
        return Sum(code, low) if draw(st.booleans()) else low
    return code
