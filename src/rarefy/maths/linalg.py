"""Factorizations of second moments."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.linalg import cholesky, solve_triangular

from rarefy.errors import RarefyError

if TYPE_CHECKING:
    from numpy.typing import NDArray


def inverse_factor(s: NDArray[np.float64]) -> NDArray[np.float64]:
    """Upper triangular U with S^-1 = U^T U, for a positive definite S (n, n).

    From the reversed Cholesky factor S = R R^T with R upper: U = R^-1, which needs no explicit inverse of S.
    Raises RarefyError when S is not positive definite.
    """
    try:
        r = cholesky(s[::-1, ::-1], lower=True, check_finite=False)[::-1, ::-1]
    except np.linalg.LinAlgError:
        raise RarefyError("a second moment is not positive definite", remedy="raise the damping") from None
    return solve_triangular(r, np.eye(len(s)), lower=False, check_finite=False)


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
