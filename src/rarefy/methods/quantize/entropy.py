"""Entropy-coded quantization: every weight of the network rounded at the same price in nats, and the integers coded."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from rarefy.codes.separable import POINTS, Separable, exponents, powers
from rarefy.codes.sparse import supported
from rarefy.errors import UsageError
from rarefy.evidence import Curvature
from rarefy.maths.curves import Curve, root
from rarefy.maths.linalg import combined, damped_factor, product
from rarefy.maths.rounding import BLOCK, round_blocks
from rarefy.method import Budgeted, setting
from rarefy.native import _kernels

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from rarefy.evidence import Site, Statistic

LEAST = 1e-3
"""Of their mean, what every output row's Fisher information is taken to be at least: calibration is not all text."""

SAMPLE, LEAST_ROWS = 1 / 32, 32
"""Of a matrix's rows, the share that a forecast of its rate rounds, and at least how many."""

PLAIN = np.arange(1, POINTS + 1, dtype=np.float32)[:, None]
"""Reconstruction points that are not shrunken: the integers themselves."""

SURE = 3.0
"""Standard errors by which a centroid has to differ from the middle of its bin."""

AT_ONCE = 4096
"""Rows whose noise is made together."""

SIDE_BITS = 12
"""What the scale and the spread of a row or a column take, about."""

RECORD_BITS = 440
"""What a record takes beside its rows, columns and integers, about."""

FORECAST_BITS = (0.5, 1.5, 2.5, 3.5, 5, 7)
"""Where a forecast looks, in bits a weight by the rule of thumb for a Gaussian at high rate."""


@dataclass(frozen=True)
class Entropy(Budgeted):
    """One step for the whole network, in nats; what a weight gets follows from the curvature of the output there.

    With KL = 1/2 sum_r g_r e_r^T S e_r for a change e of a matrix, S^-1 = U^T U and error feedback as in GPTQ, a step
    of c U_ii / sqrt(g_r) in row r and column i makes each weight cost c^2 / 24 nats (columns: WaterSIC, 2026; rows:
    Fisher information of the outputs). Bits are whatever an entropy coder needs for the integers. The step that
    spends `bits` is found beforehand from a sample of rows, and found again after each segment for what is left.
    """

    damping: float = setting(0.01, "added to the second moment's diagonal, as a share of its mean", low=0, high=10)

    needs: ClassVar[frozenset[Statistic]] = frozenset({Curvature()})
    takes_embeddings: ClassVar[bool] = True

    def declines(self, site: Site) -> str:
        uses = site.statistics.get(Curvature(), ())
        still = bool(uses) and not any(use.rows.any() for use in uses)
        return super().declines(site) or ("the output does not move with it" if still else "")

    def encode(self, site: Site) -> Separable:
        w, keep = site.weight(), site.keep()
        g, u = self.metric(site)
        rows, columns = exponents(1 / np.sqrt(g)), exponents(self.step * np.diagonal(u))
        some = _sample(len(w))
        points = _points(w[some], None if keep is None else keep[some], rows[some], columns, u)[:, :1]
        q = _rounded(w, keep, rows, columns, u, points)
        return Separable(q, rows, columns, points[:, 0], shape=site.shape)

    def metric(self, site: Site) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """g (out,), about 1, and U (in, in), which has the scale of both."""
        g, s = combined([(use.rows, use.moment.s) for use in site.statistics[Curvature()]])
        return np.maximum(g, np.float32(LEAST)), damped_factor(s, self.damping)

    def forecast(self, site: Site, g: NDArray[np.float32], u: NDArray[np.float32]) -> dict[str, Any]:
        """Bits of a site at several steps, from a sample of its rows, which do not know each other."""
        w, keep = site.weight(), site.keep()
        out, rows = len(w), _sample(len(w))
        w, g, keep = w[rows], g[rows], None if keep is None else keep[rows]
        scaled = w * np.sqrt(g)[:, None] / np.diagonal(u)
        # A Gaussian in steps of its deviation has log2 sqrt(2 pi e) = 2.05 bits.
        middle = np.log2(np.sqrt(np.mean(np.square(scaled), dtype=np.float64)) or 1.0) + 2.05
        steps = [float(np.exp2(middle - bits)) for bits in FORECAST_BITS]
        # All steps in one go: each is a factor of its own rows.
        many, tiled = len(steps), None if keep is None else np.tile(keep, (len(steps), 1))
        every = exponents(np.outer(steps, 1 / np.sqrt(g)).reshape(-1))
        columns = exponents(np.diagonal(u))
        w = np.tile(w, (many, 1))
        points = _points(w, tiled, every, columns, u, many)
        q = _rounded(w, tiled, every, columns, u, points)
        parts = Separable(q, every, columns, shape=q.shape).parts(many)
        side = SIDE_BITS * (out + len(columns)) + RECORD_BITS
        return {
            "steps": steps,
            "bits": [side + out / len(rows) * _bits(part, keep) for part in parts],
            "weights": out * len(columns),
        }

    def noise(
        self, w: NDArray[np.float32], g: NDArray[np.float32], u: NDArray[np.float32], step: float
    ) -> NDArray[np.float32]:
        """What rounding leaves where each weight rounds as it is, and not as the errors before it moved it; all fed
        into the columns to come, as they are there."""
        made, columns = np.empty_like(w), (step * np.diagonal(u)).astype(np.float32)
        for start in range(0, len(w), AT_ONCE):
            rows = slice(start, start + AT_ONCE)
            scales = (1 / np.sqrt(g[rows])).astype(np.float32)[:, None]
            levels = w[rows] / (scales * columns)
            made[rows] = product((np.rint(levels) - levels) * (scales * np.float32(step)), u)
        return made

    def spending(self, bits: float, forecasts: Sequence[Mapping[str, Any]]) -> Entropy:
        if self.step:
            return self
        try:
            step = root([Curve(f["steps"], f["bits"]) for f in forecasts], bits)
        except ValueError as error:
            raise UsageError(
                f"{self.name()} cannot spend so many bits",
                f"{error}: the output hardly moves with these weights",
                "exclude what it does not move with, or calibrate on data like those it was trained on",
            ) from None
        return dataclasses.replace(self, step=step)


def _bits(code: Separable, keep: NDArray[np.bool_] | None) -> float:
    """Of the integers, and of where they are."""
    made = code if keep is None else supported(code, keep)
    return sum(stream.bits() for stream in made.streams() if stream.name in ("support", "values"))


def _sample(out: int) -> NDArray[np.intp]:
    """Some rows of so many, evenly spread."""
    return np.unique(np.linspace(0, out - 1, max(LEAST_ROWS, int(SAMPLE * out))).astype(np.intp))


def _points(
    w: NDArray[np.float32],
    keep: NDArray[np.bool_] | None,
    rows: NDArray[np.int16],
    columns: NDArray[np.int16],
    u: NDArray[np.float32],
    many: int = 1,
) -> NDArray[np.float32]:
    """What |q| = 1, 2, 3 should stand for in each row, (3, out): the same in each of so many equal runs of rows.

    Centroids of what rounds to them, which lie nearer to zero in the bins of a bell (Lloyd 1982; Max 1960); the
    integer itself where no more than chance moves it.
    """
    left = np.empty((len(columns), len(w)), np.float32)
    q = _rounded(w, keep, rows, columns, u, PLAIN, left)
    found = np.repeat(PLAIN, len(w), 1)
    for part in np.split(np.arange(len(w)), many):
        size, outwards = np.abs(q[part]), np.sign(q[part]) * left.T[part]
        for k in range(POINTS):
            among = outwards[size == k + 1]
            shift = float(among.mean(dtype=np.float64)) if among.size else 0.0
            if among.size * shift**2 > SURE**2 / 12:
                found[k, part] += np.float32(shift)
    return found


def _rounded(
    w: NDArray[np.float32],
    keep: NDArray[np.bool_] | None,
    rows: NDArray[np.int16],
    columns: NDArray[np.int16],
    u: NDArray[np.float32],
    points: NDArray[np.float32],
    left: NDArray[np.float32] | None = None,
) -> NDArray[np.int32]:
    """The integers, (out, in), on a grid of these exponents with points (3, out) or (3, 1).

    left: (in, out), filled with what rounding leaves, in steps.
    """
    scales, steps, points = powers(rows), powers(columns), np.ascontiguousarray(points)
    q = np.empty((w.shape[1], w.shape[0]), np.int32)
    kept = None if keep is None else np.ascontiguousarray(keep.T)

    def round_block(
        start: int, rest: NDArray[np.float32], within: NDArray[np.float32], reciprocal: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        part = slice(start, start + len(within))
        errors = np.empty((len(within), len(w)), np.float32)
        _kernels.round_block(
            rest[: len(within)], within, reciprocal, scales, steps[part], points,
            None if kept is None else kept[part], q[part], errors, None if left is None else left[part],
        )  # fmt: skip
        return errors

    round_blocks(w, u, round_block, BLOCK)
    return np.ascontiguousarray(q.T)
