"""Dynamic Network Surgery: pruning while training, and splicing where a connection turns out to be missed.

A weight w works in the network as w T, T in {0, 1}. Both kinds are trained with the gradient with respect to w T, those
that are cut as well, so their size goes on telling how much they are wanted:

    T = 0 where |w| < a,    T stays where a <= |w| < b,    T = 1 where |w| >= b              (equation 3)

a and b lie around mean + c std of |w|. Masks are looked at ever more seldom, with probability 1 / (1 + gamma step), and
no more towards the end.

Guo, Yao and Chen, "Dynamic network surgery for efficient DNNs", NIPS 2016; c, the margin and the probability as in the
authors' code.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from rarefy.codes import Code, Dense
from rarefy.method import Latent, setting

if TYPE_CHECKING:
    import torch

    from rarefy.evidence import Site
    from rarefy.training.latent import State, Values


@dataclass(frozen=True)
class Surgery(Latent):
    """Trains linear layers and convolutions with masks that follow the weights; connections may return.

    Everything else is trained as it is.
    """

    c: float = setting(1.0, "a weight is kept from mean + c standard deviations of the layer's magnitudes on", low=-10)
    margin: float = setting(0.1, "how far the two thresholds lie on either side of that, as a share", low=0, high=1)
    gamma: float = setting(0.0001, "masks are looked at with probability 1 / (1 + gamma step)", low=0)
    until: float = setting(0.7, "share of the training after which masks stay", low=0, high=1)

    def start(self, site: Site) -> Values:
        import torch

        if site.kind not in ("linear", "convolution"):
            return {}
        w = torch.from_numpy(site.weight().copy()).reshape(site.shape)
        size = w.abs()
        middle = size.mean() + self.c * size.std(correction=0)
        a, b = (1 - self.margin) * middle, (1 + self.margin) * middle
        return {"w": w.requires_grad_(), "mask": torch.ones(site.shape), "a": a, "b": b}

    def before(self, state: State) -> None:
        import torch

        if state.step > self.until * state.steps:
            return
        for latent in state.latents.values():
            if float(torch.rand(())) * (1 + self.gamma * state.step) < 1:
                size, mask = latent["w"].abs(), latent["mask"]
                mask.copy_((mask.bool() & (size >= latent["a"])) | (size >= latent["b"]))

    def project(self, site: Site, latent: Values, state: State) -> torch.Tensor:
        w = latent["w"]
        return w + (w * latent["mask"] - w).detach()

    def finish(self, site: Site, latent: Values, state: State) -> Code:
        dense = Dense.of(latent["w"].cpu().numpy(), state.model.dtypes[site.name])
        return dense.masked(latent["mask"].bool().cpu().numpy())
