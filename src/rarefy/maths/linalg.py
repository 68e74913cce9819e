"""Factorizations and products on the scale of a layer: float64 factors, all threads, NumPy in and out."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from rarefy.errors import RarefyError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray


def inverse_factor(s: NDArray[np.float64], *, overwrite: bool = False) -> NDArray[np.float64]:
    """Upper triangular U with S^-1 = U^T U, for a positive definite S (n, n).

    From the reversed Cholesky factor S = R R^T with R upper: U = R^-1, which needs no explicit inverse of S.
    overwrite: leave U where S (contiguous) was, both axes turned around; else in a copy. No more memory is taken.
    Raises RarefyError when S is not positive definite.
    """
    from scipy.linalg.lapack import dpotrf, dtrtri

    if s.size == 0:
        return s
    u = s if overwrite else s.copy()
    _reverse(u)
    # LAPACK counts columns first, so it sees the transpose: U^T reversed, which is lower, is upper there.
    with _all_threads(len(u)):
        upper, failed = dpotrf(u.T, lower=0, clean=1, overwrite_a=1)
        if not failed:
            upper, failed = dtrtri(upper, lower=0, overwrite_c=1)
    if failed or not np.isfinite(upper[-1, -1]):  # a NaN reaches every later pivot
        raise RarefyError("a second moment is not positive definite", remedy="raise the damping")
    made: NDArray[np.float64] = upper.T[::-1, ::-1]
    return made


def damped_factor(s: NDArray[np.float64], damping: float) -> NDArray[np.float32]:
    """U of `inverse_factor` for the damped S, in float32.

    s (n, n), contiguous and the owner of its memory, is spent: U has half of that, and the rest is given back.
    """
    n = len(s)
    inverse_factor(damped(s, damping), overwrite=True)
    _reverse(s)
    single = s.reshape(-1).view(np.float32)
    for i, row in enumerate(s):  # a row's place has been read by then
        single[i * n : (i + 1) * n] = row.astype(np.float32)
    s.resize((n * n + 1) // 2, refcheck=False)  # no view of it is used again
    return s.view(np.float32)[: n * n].reshape(n, n)


def _reverse(s: NDArray[np.float64]) -> None:
    """Turn both axes of a square matrix around, in place."""
    last = len(s) - 1
    for i in range(len(s) // 2):
        row = s[i, ::-1].copy()
        s[i] = s[last - i, ::-1]
        s[last - i] = row
    if len(s) % 2:
        s[last // 2] = s[last // 2, ::-1].copy()


@contextlib.contextmanager
def _all_threads(n: int) -> Iterator[None]:
    """As many threads for SciPy's BLAS as torch has, where that is worth it.

    They wait by spinning: a second one took more from other work on two cores than it gave.
    """
    import torch
    from threadpoolctl import threadpool_limits

    if n < 2048 or torch.get_num_threads() <= 2:
        yield
        return
    with threadpool_limits(torch.get_num_threads(), user_api="blas"):
        yield


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
    """S, changed in place: with `damping` times the mean of its diagonal added to the diagonal.

    Inputs that never fired get the mean there: nothing is known of them, so their columns are rounded to nearest.
    """
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
    total = np.multiply(terms[0][1], means[0], dtype=np.float64)
    for mean, (_, s) in zip(means[1:], terms[1:], strict=True):
        total += np.multiply(s, mean, dtype=np.float64)
    if len(terms) == 1:
        return (terms[0][0] / means[0]).astype(np.float32), total
    inverse = np.linalg.inv(damped(total.copy(), 1e-6))
    shares = [mean * float(np.vdot(inverse, s)) for mean, (_, s) in zip(means, terms, strict=True)]
    relative = [rows / (mean or 1.0) for mean, (rows, _) in zip(means, terms, strict=True)]
    return np.average(relative, axis=0, weights=shares).astype(np.float32), total
