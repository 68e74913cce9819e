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

BlockRounder = Callable[[int, "Floats", "Floats", "Floats"], "Floats"]
"""(a block's first column; transposed weights, (columns from there on, out), of which the block's come first; U's block
transposed; 1 / U_ii in it) -> errors (columns of the block, out) to feed on. The block's weights become what they round
to."""

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

    Inside a block the feedback into column i is gathered when its turn comes (one product of its run's errors with
    U's column). A block is one run of columns, or several of `run` each, which get the feedback from before them when
    they open. Returns what `round_blocks` does.
    """
    run = min(run or block, block)

    def round_block(start: int, rest: Floats, within: Floats, reciprocal: Floats) -> Floats:
        errors = np.empty((len(within), rest.shape[1]), np.float32)
        for i in range(len(within)):
            opened = i - i % run
            if i == opened:
                if i:
                    end = min(i + run, len(within))
                    subtract_product(rest[i:end], within[i:end, :i].T, errors[:i])
                if opener is not None:
                    opener(start + i, rest[i:])
            column = rest[i]
            if i > opened:
                column = column - within[i, opened:i] @ errors[opened:i]
            value = rounder(start + i, column)
            np.subtract(column, value, out=errors[i])
            errors[i] *= reciprocal[i]
            rest[i] = value
        return errors

    return round_blocks(w, u, round_block, block)


def round_blocks(w: Floats, u: Floats, rounder: BlockRounder, block: int) -> Floats:
    """Round so many columns of `w` (out, in) after the other, those behind them getting their feedback through `u`
    (in, in, upper triangular) in one matrix product.

    Returns the rounded values, (out, in), float32, a transposed view; `w` is left as it is. One copy of it is made,
    which holds what is rounded before what is not.
    """
    rest = np.array(w.T, np.float32, order="C")
    reciprocal = np.float32(1) / np.diagonal(u)
    for start in range(0, len(rest), block):
        part = slice(start, min(start + block, len(rest)))
        errors = rounder(start, rest[start:], np.ascontiguousarray(u[part, part].T), reciprocal[part])
        if part.stop < len(rest):
            subtract_product(rest[part.stop :], u[part, part.stop :], errors)
    return rest.T
