"""Training under a price for every bit of the file: pruning, sharing and precision out of one Lagrangian.

    minimize  loss + price * bits(q) / examples,   weights = step * q,   q = round(u / step)

u and the logarithm of the step are trained, for each parameter; rounding passes the gradient straight through. Between
integers the bits are those that a dither uniform within a step would take on average, a straight line:

    bits(v) = (1 - f) l(floor |v|) + f l(ceil |v|),   v = u / step,   f = |v| - floor |v|

so a weight is drawn to zero as by an L1 norm whose weight is what its place in the matrix costs to fill. l is what the
context coder (`entropy.context`) will spend, found by counting: how often a row and a column are not zero, smoothed as
the coder learns them, one bit of sign, and a geometric law of what is beyond one. A column that is nearly empty is
dear to write in, so whole rows and columns die out.

Sources: Ballé, Laparra and Simoncelli 2017 (dither for rounding) and Oktay, Ballé, Singh and Shrivastava 2020,
"Scalable model compression by entropy penalized reparameterization" (the Lagrangian for weights); Esser et al. 2020,
"Learned step size quantization" (the gradient of a step).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from rarefy.codes import Code, Dense, Grid
from rarefy.errors import UsageError
from rarefy.method import Latent, setting
from rarefy.units import human

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

    from rarefy.evidence import Site
    from rarefy.training.latent import State, Values

PERIOD: Final = 10
"""Steps between two counts of the integers."""

COLUMN: Final = 8
"""Symbols that the mean counts for when the coder starts to learn a column."""

WINDOW: Final = 32
"""Symbols of a row that the coder remembers: it cannot tell rows apart that are filled less than once in so many."""

LEAST: Final = 2e-4
"""The least probability that the coder works with, about."""

TOP: Final = 127
"""The largest integer of a grid."""


@dataclass(frozen=True)
class EntropyAware(Latent):
    """Trains integers and steps under a price for every estimated bit, which follows from the size where one is given.

    It takes all parameters, biases and gains too.
    """

    price: float = setting(0.05, "nats that a bit may cost, over all examples together", low=0, high=1e6)
    size: int = setting(0, "bytes that all weight files may have in the end; steers the price", low=0)
    levels: int = setting(4, "steps between zero and the largest weight of a matrix, at first", low=1, high=TOP)
    ramp: float = setting(0.5, "share of the training in which the size is approached", low=0, high=1)

    def start(self, site: Site) -> Values:
        import torch

        u = torch.from_numpy(site.weight().copy())
        levels = self.levels if len(site.shape) > 1 else TOP // 4
        log_step = (u.abs().max() / levels).clamp(min=1e-12).log()
        trained = {"u": u.requires_grad_(), "log_step": log_step.requires_grad_()}
        return trained | {"slope": torch.zeros(u.shape)}

    def project(self, site: Site, latent: Values, state: State) -> torch.Tensor:
        from rarefy.training.rounding import rounded

        return rounded(latent["u"], _step(latent), TOP).reshape(site.shape)

    def penalty(self, site: Site, latent: Values, state: State) -> torch.Tensor:
        """The price of the bits, up to what no weight changes."""
        from rarefy.training.rounding import pull

        return state.held["price"] / state.examples * pull(latent["u"], _step(latent), latent["slope"])

    def held(self) -> Values:
        import torch

        # price: the one in force; steady: its part that is learnt; first: bits at first; ratio: of bits in the file.
        start = {"price": self.price, "steady": math.log(max(self.price, 1e-9)), "first": 0.0, "ratio": 1.0}
        return {name: torch.tensor(value) for name, value in start.items()}

    def before(self, state: State) -> None:
        if state.step % PERIOD:
            return
        bits = sum(_count(latent) for latent in state.latents.values())
        if self.size:
            if state.step % max(PERIOD, state.steps // 100 // PERIOD * PERIOD) == 0:
                codes = {key: _code(site, latent) for key, (site, latent) in _paired(state).items()}
                state.held["ratio"].fill_(8 * state.file_bytes(codes) / max(bits, 1.0))
            self._steer(state, bits * float(state.held["ratio"]))

    def _steer(self, state: State, bits: float) -> None:
        """The price at which bits go down to the size, on a straight line of their logarithm."""
        held = state.held
        if state.step == 0:
            held["first"].fill_(bits)
        done = min(1.0, state.step / max(1.0, self.ramp * state.steps))
        wanted = (1 - done) * math.log(float(held["first"])) + done * math.log(8 * self.size)
        off = min(1.0, max(-1.0, math.log(max(bits, 1.0)) - wanted))
        held["steady"].add_(0.05 * off)
        held["price"].copy_((held["steady"] + off).exp())

    def finish(self, site: Site, latent: Values, state: State) -> Code:
        return _code(site, latent)

    def codes(self, state: State) -> Mapping[str, Code]:
        """The nearest integers; where they take more than the size, the least of them become zero."""
        made, least = self._above(state, 0.5), 0.5
        most = 8.0
        if not self.size or state.file_bytes(made) <= self.size:
            return made
        if (fewest := state.file_bytes(self._above(state, TOP + 1.0))) > self.size:
            raise UsageError(
                f"{human(self.size)} are too few", f"the file takes {human(fewest)} with nothing in it", "allow more"
            )
        while state.file_bytes(self._above(state, most)) > self.size:
            most *= 2
        for _ in range(12):
            middle = (least + most) / 2
            fits = state.file_bytes(self._above(state, middle)) <= self.size
            least, most = (least, middle) if fits else (middle, most)
        return self._above(state, most)

    def _above(self, state: State, least: float) -> dict[str, Code]:
        return {key: _code(site, latent, least) for key, (site, latent) in _paired(state).items()}


def _paired(state: State) -> dict[str, tuple[Site, Values]]:
    return {key: (site, state.latents[key]) for key, site in state.sites.items()}


def _step(latent: Values) -> torch.Tensor:
    """The step as it is stored."""
    step = latent["log_step"].exp()
    return step + (step.bfloat16().float() - step).detach()


def _integers(latent: Values) -> torch.Tensor:
    return (latent["u"] / _step(latent)).round().clamp(-TOP, TOP)


def _count(latent: Values) -> float:
    """Bits that the coder will spend on the integers; what they would be for one more goes into `slope`.

    The odds that a place is filled are those of its column times how much its row exceeds the others.
    """
    import torch

    v = (latent["u"] / _step(latent)).abs_()
    q = v.round().clamp_(max=TOP)
    filled = (q > 0).to(q.dtype)
    rows, columns = q.shape
    n, total = float(filled.sum()), float(q.sum())
    mean = (n + 0.5) / (q.numel() + 1)
    column = (filled.sum(0) + COLUMN * mean) / (rows + COLUMN) if rows > 1 else filled.new_full((columns,), mean)
    row = (filled.mean(1) + 1 / WINDOW) / (mean + 1 / WINDOW)
    odds = ((column / (1 - column)).log2() + row.log2()[:, None]).clamp_(math.log2(LEAST), -math.log2(LEAST))
    more = min(max(1 - (n + 1) / (total + 1.5), 0.02), 0.98)  # of the geometric law
    first, further = 1 - math.log2(1 - more), -math.log2(more)
    empty = float(torch.log1p(odds.exp2()).sum()) / math.log(2)
    bits = empty - float(torch.dot(odds.view(-1), filled.view(-1))) + first * n + further * (total - n)
    latent["slope"].copy_(odds).neg_().add_(first).clamp_(min=0).masked_fill_(v > 1, further)
    return bits


def _code(site: Site, latent: Values, least: float = 0.5) -> Code:
    """The integers as a grid; those of |v| below `least` are zero."""
    q = _integers(latent)
    q = q * ((latent["u"] / _step(latent)).abs() >= least)
    return grid(q.cpu().numpy().astype(np.int64), float(_step(latent)), site.shape)


def grid(q: NDArray[np.int64], step: float, shape: tuple[int, ...]) -> Grid:
    """Integers (out, in) on a grid of as few bits as hold them."""
    bits = max(2, int(max(q.max(initial=0), -q.min(initial=0))).bit_length() + 1)
    scale = Dense.of(np.full((1, 1), step, np.float32), "BF16")
    symbols = (q + (1 << bits - 1)).astype(np.uint8)
    return Grid(symbols, scale, None, bits_per_symbol=bits, group=max(1, q.shape[1]), shape=shape)
