"""Sequential rounding with error feedback.

With S^-1 = U^T U and U upper triangular, rounding the columns of W in ascending order and feeding each column's error
into the columns not yet rounded makes the output error tr((W - Q) S (W - Q)^T) = sum_i |e_i|^2, where
e_i = (w_i - q_i) / U_ii (GPTQ: Frantar et al. 2023, algorithm 1; in lattice language Babai's nearest plane).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from rarefy.maths.linalg import subtract_product

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]

BLOCK = 128
"""Columns rounded before the columns behind them get their feedback in one product."""

Rounder = Callable[[int, "Floats"], "Floats"]
"""(column index, its weights with feedback, (out,)) -> the values they round to, (out,)."""

Opener = Callable[[int, "Floats"], None]
"""(first column of a run, transposed weights (columns from there on, out)) -> None; the run has all feedback so far."""


def block_for(group: int) -> int:
    """A block size whose multiples include those of `group`, so that every group opens with all its feedback."""
    if group <= 2 * BLOCK:
        return group
    common = math.gcd(group, BLOCK)
    return common if common >= 16 else group


def round_sequentially(
    w: Floats, u: Floats, rounder: Rounder, *, block: int, opener: Opener | None = None, run: int | None = None
) -> Floats:
    """Round the columns of `w` (out, in) in order with feedback through `u` (in, in, upper triangular).

    Works block by block: inside a block the feedback into column i is gathered when its turn comes (one product of
    its run's errors with U's column), and the columns behind the block get theirs in one matrix product. A block is
    one run of columns, or several of `run` each, which get the feedback from before them when they open.
    Returns the rounded values, (out, in), float32, a transposed view; `w` is left as it is. One copy of it is made,
    which holds what is rounded before what is not.
    """
    rest = np.array(w.T, np.float32, order="C")
    columns = len(rest)
    reciprocal = np.float32(1) / np.diagonal(u)
    run = min(run or block, block)
    for start in range(0, columns, block):
        stop = min(start + block, columns)
        errors = np.empty((stop - start, rest.shape[1]), np.float32)
        within = np.ascontiguousarray(u[start:stop, start:stop].T)
        for i in range(start, stop):
            at = i - start
            opened = at - at % run
            if at == opened:
                if at:
                    end = min(i + run, stop)
                    subtract_product(rest[i:end], u[start:i, i:end], errors[:at])
                if opener is not None:
                    opener(i, rest[i:])
            column = rest[i]
            if at > opened:
                column = column - within[at, opened:at] @ errors[opened:at]
            value = rounder(i, column)
            np.subtract(column, value, out=errors[at])
            errors[at] *= reciprocal[i]
            rest[i] = value
        if stop < columns:
            subtract_product(rest[stop:], u[start:stop, stop:], errors)
    return rest.T
