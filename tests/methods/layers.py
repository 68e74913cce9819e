"""A layer to prune."""

import numpy as np

from rarefy.codes import Dense
from rarefy.evidence import Moment, SecondMoment, Site


def layer(rows: int = 48, columns: int = 96, seed: int = 0) -> tuple[np.ndarray, Moment, np.ndarray]:
    """Weights (out, in), the second moment of strongly correlated inputs of very different sizes, and those inputs."""
    random = np.random.default_rng(seed)
    w = random.standard_t(5, size=(rows, columns)).astype(np.float32)
    mix = random.normal(size=(columns, columns)) / 4 + np.eye(columns)
    x = random.normal(size=(4 * columns, columns)) @ mix * random.gamma(1, 1, columns)
    return w, Moment((x.T @ x / len(x)).astype(np.float32), len(x)), x


def site(w: np.ndarray, moment: Moment) -> Site:
    return Site("w", "linear", "s", Dense.of(w), {SecondMoment(): moment})


def tiles(w: np.ndarray, m: int) -> np.ndarray:
    """How many of every m inputs are left, (out, runs)."""
    return np.add.reduceat(w != 0, np.arange(0, w.shape[1], m), axis=1)
