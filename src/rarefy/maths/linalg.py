"""Factorizations and products on the scale of a layer: float64 factors, all threads (torch), NumPy in and out."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from rarefy.errors import RarefyError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray


def inverse_factor(s: NDArray[np.float64]) -> NDArray[np.float64]:
    """Upper triangular U with S^-1 = U^T U, for a positive definite S (n, n).

    From the reversed Cholesky factor S = R R^T with R upper: U = R^-1, which needs no explicit inverse of S.
    Raises RarefyError when S is not positive definite.
    """
    import torch

    # A copy, since torch takes no negative strides, which a 1 x 1 array keeps through ascontiguousarray.
    reversed_s = torch.from_numpy(s[::-1, ::-1].copy())
    lower, failed = torch.linalg.cholesky_ex(reversed_s)
    if int(failed):
        raise RarefyError("a second moment is not positive definite", remedy="raise the damping")
    r = lower.flip(0, 1)
    u: NDArray[np.float64] = torch.linalg.solve_triangular(r, torch.eye(len(s), dtype=r.dtype), upper=True).numpy()
    return u


def quadratic(w: NDArray[np.float32], s: NDArray[np.float32]) -> float:
    """tr(W S W^T) for W (out, in) and S (in, in)."""
    import torch

    rows = torch.from_numpy(w)
    return float((rows @ torch.from_numpy(s)).mul_(rows).sum(dtype=torch.float64))


def product(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float32]:
    """a b for a (m, k), b (k, n)."""
    import torch

    made: NDArray[np.float32] = (torch.from_numpy(a) @ torch.from_numpy(b)).numpy()
    return made


def subtract_product(c: NDArray[np.float32], a: NDArray[np.float32], b: NDArray[np.float32]) -> None:
    """c -= a^T b in place, for a (k, m), b (k, n), c (m, n)."""
    import torch

    torch.from_numpy(c).addmm_(torch.from_numpy(a).T, torch.from_numpy(b), alpha=-1)


def damped(s: NDArray[np.float64], damping: float) -> NDArray[np.float64]:
    """S with `damping` times the mean of its diagonal added to the diagonal.

    Inputs that never fired get the mean there: nothing is known of them, so their columns are rounded to nearest.
    """
    s = s.copy()
    diagonal = np.einsum("ii->i", s)
    fired = diagonal > 0
    mean = diagonal[fired].mean() if fired.any() else 1.0
    diagonal[~fired] = mean
    diagonal += damping * mean
    return s


def combined(
    terms: Sequence[tuple[NDArray[np.float32], NDArray[np.float32]]],
) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """One (rows, S) near a sum of several: sum_u rows_u[r] e_r^T S_u e_r ~ rows[r] e_r^T S e_r, rows of mean 1.

    S = sum_u mean(rows_u) S_u; a row's factor is the terms' own against their means, each with the share tr(S^-1 S_u)
    that the term has in log det S, which is what bits depend on.
    """
    means = [float(rows.mean()) for rows, _ in terms]
    if not any(means):
        raise RarefyError("a matrix does not move the output", remedy="leave it as it is with --exclude")
    parts = [mean * s.astype(np.float64) for mean, (_, s) in zip(means, terms, strict=True)]
    total: NDArray[np.float64] = np.sum(parts, axis=0)
    inverse = np.linalg.inv(damped(total, 1e-6)) if len(terms) > 1 else total
    shares = [float(np.vdot(inverse, part)) for part in parts]
    relative = [rows / (mean or 1.0) for mean, (rows, _) in zip(means, terms, strict=True)]
    return np.average(relative, axis=0, weights=shares).astype(np.float32), total
