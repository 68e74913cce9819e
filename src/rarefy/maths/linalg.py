"""Factorizations and products on the scale of a layer: float64 factors, all threads (torch), NumPy in and out."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from rarefy.errors import RarefyError

if TYPE_CHECKING:
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
