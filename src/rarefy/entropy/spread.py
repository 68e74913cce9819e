"""How widely the integers of a matrix spread: a scale index for each row and each column, whose sum a symbol is given.

Index j stands for a bell of scale 2^(j / 4 - 4) (`parametric`). The indices are those at which every row and column has
the mean magnitude that their bells predict, each symbol weighted by how far it tells.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Indices = NDArray[np.int8]

SCALES = 44

ROUNDS = 3
"""Of rows given columns, columns given rows. The third moves hardly an index."""

_RANGE = np.arange(-64.0, 2 * SCALES)


def given(rows: Indices, columns: Indices) -> NDArray[np.uint8]:
    """The scale index of each symbol, (out, in), from those of its row (out,) and its column (in,)."""
    levels, which = np.unique(rows, return_inverse=True)  # few: each one's row of indices is made once
    sums = np.add(levels[:, None], columns[None, :], dtype=np.int16)
    indices: NDArray[np.uint8] = np.clip(sums, 0, SCALES - 1).astype(np.uint8)[which]
    return indices


def fit(magnitude: NDArray[np.float32], keep: NDArray[np.bool_] | None = None) -> tuple[Indices, Indices]:
    """Indices of the rows and of the columns of |q|, float32 (out, in); with `keep`, of what stands in it."""
    rows, columns = np.zeros(magnitude.shape[0]), np.zeros(magnitude.shape[1])
    for _ in range(ROUNDS if magnitude.size else 0):
        rows = _balanced(magnitude, keep, columns, rows.mean())
        columns = _balanced(magnitude.T, None if keep is None else keep.T, rows, columns.mean())
        rows, columns = rows + columns.mean(), columns - columns.mean()
    return _rounded(rows), _rounded(columns)


def _balanced(magnitude: NDArray[np.float32], keep: NDArray[np.bool_] | None, others: Floats, level: float) -> Floats:
    """The index of each row at which sum_i w_i |q_i| is what it should be, w_i = 1 / (1 + E|q_i|): as much as a column
    is told of its scale by one integer, nearly nothing where that is nearly always zero."""
    weights = (1 / (1 + _expected(others + level))).astype(np.float32)
    if keep is None:
        observed = magnitude @ weights
    else:
        observed = magnitude @ weights * weights.sum() / np.maximum(keep @ weights, np.float32(1e-6))
    # To a quarter of an index, of which there are few.
    near, counts = np.unique(np.rint(4 * others) / 4, return_counts=True)
    each = counts / (1 + _expected(near + level))
    predicted = _expected(near + _RANGE[:, None]) @ each
    index: Floats = np.interp(observed, predicted, _RANGE)
    return index


def _expected(index: Floats) -> Floats:
    """E|q| of a Laplace law of that scale, rounded to integers: sum over k > 0 of P(|x| > k - 1/2)."""
    rate = np.sqrt(2) / np.exp2(np.clip(index, -16, 2 * SCALES) / 4 - 4)
    mean: Floats = np.exp(-rate / 2) / -np.expm1(-rate)
    return mean


def _rounded(index: Floats) -> Indices:
    return np.clip(np.rint(index), -128, 127).astype(np.int8)
