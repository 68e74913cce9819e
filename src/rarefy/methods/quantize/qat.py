"""LSQ: quantization-aware training with learned steps.

    q = round(clip(u / s, -Qn, Qp)),   w = s q,   Qn = 2^(b-1),   Qp = 2^(b-1) - 1        (equations 1 and 2)

Rounding passes the gradient straight through, clipping does not, so of a weight within the grid
dw/du = 1 and dw/ds = q - u / s, of one beyond it 0 and -Qn or Qp (equations 3 and 5).

Esser, McKinstry, Bablani, Appuswamy and Modha, "Learned step size quantization", ICLR 2020. Of weights alone:
activations stay as they are. A step moves by its logarithm, since AdamW moves all that it trains alike.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from rarefy.codes import Code, Dense, Grid
from rarefy.method import Latent, setting

if TYPE_CHECKING:
    import torch

    from rarefy.evidence import Site
    from rarefy.training.latent import State, Values


@dataclass(frozen=True)
class QAT(Latent):
    """Trains the weights of linear layers and convolutions on a grid of few bits with one learned step a tensor.

    Everything else is trained as it is.
    """

    bits: int = setting(4, "bits a weight", low=2, high=8)

    @property
    def bounds(self) -> tuple[int, int]:
        """-Qn and Qp."""
        return -(1 << self.bits - 1), (1 << self.bits - 1) - 1

    def start(self, site: Site) -> Values:
        import torch

        if site.kind not in ("linear", "convolution"):
            return {}
        u = torch.from_numpy(site.weight().copy())
        step = 2 * u.abs().mean() / math.sqrt(self.bounds[1])  # section 2.1
        log_step = step.clamp(min=torch.finfo(torch.float32).tiny).log()
        return {"u": u.requires_grad_(), "log_step": log_step.requires_grad_()}

    def project(self, site: Site, latent: Values, state: State) -> torch.Tensor:
        # Section 2.2: so that steps and weights move at like speeds, whatever the size of the layer.
        s = _scaled(latent["log_step"].exp(), 1 / math.sqrt(latent["u"].numel() * self.bounds[1]))
        v = (latent["u"] / s).clamp(*self.bounds)
        q = v + (v.round() - v).detach()
        return (q * s).reshape(site.shape)

    def finish(self, site: Site, latent: Values, state: State) -> Code:
        step = latent["log_step"].exp()
        q = (latent["u"] / step).clamp(*self.bounds).round().cpu().numpy()
        symbols = (q - self.bounds[0]).astype(np.uint8)
        scale = Dense.of(np.full((1, 1), float(step), np.float32))
        return Grid(symbols, scale, None, bits_per_symbol=self.bits, group=max(1, q.shape[1]), shape=site.shape)


def _scaled(value: torch.Tensor, gradient: float) -> torch.Tensor:
    """The value, with its gradient times `gradient`."""
    return (value - value * gradient).detach() + value * gradient
