"""Masks: the entries of a score that stay. Of equal ones the first go, but of n:m patterns the first stay."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]
    Mask = NDArray[np.bool_]


def largest(score: Floats, dropped: int) -> Mask:
    """All but the `dropped` smallest of the whole array, which may have any shape."""
    flat = score.reshape(-1)
    if dropped == 0:
        return np.ones(score.shape, bool)
    threshold = np.partition(flat, dropped - 1)[dropped - 1]
    keep = flat > threshold
    equal = np.flatnonzero(flat == threshold)
    below = flat.size - np.count_nonzero(keep) - equal.size
    keep[equal[dropped - below :]] = True
    made: Mask = keep.reshape(score.shape)
    return made


def largest_in_rows(score: Floats, sparsity: float) -> Mask:
    """All but the round(sparsity x columns) smallest of each row of a matrix."""
    keep = np.ones(score.shape, bool)
    order = np.argsort(score, axis=1, kind="stable")
    np.put_along_axis(keep, order[:, : round(sparsity * score.shape[1])], False, axis=1)
    return keep


def largest_of_each(score: Floats, n: int, m: int) -> Mask:
    """The n largest of every m consecutive entries of each row of a matrix; of a short last run the n largest too."""
    rows, columns = score.shape
    m = max(min(m, columns), 1)
    padded = np.full((rows, -(-columns // m) * m), -np.inf, np.float32)
    padded[:, :columns] = score
    runs = padded.reshape(rows, -1, m)
    keep = np.zeros(runs.shape, bool)
    np.put_along_axis(keep, np.argsort(-runs, axis=2, kind="stable")[:, :, :n], True, axis=2)
    return keep.reshape(rows, -1)[:, :columns]
