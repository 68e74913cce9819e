"""quantize.qat: LSQ's equations against autograd and against a literal copy, and the grid that is stored."""

import numpy as np
import pytest
import tiny
import torch

from rarefy.codes import Grid
from rarefy.evidence import Site
from rarefy.methods.quantize.qat import QAT
from rarefy.model import Model
from rarefy.training.latent import State


def site(kind: str = "linear") -> Site:
    model = tiny.opened("chain")
    return Site("0.weight", kind, "", model.codes["0.weight"])


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_values_and_gradients_are_lsqs(bits: int) -> None:
    method, state = QAT(bits=bits), State(tiny.opened("chain"), 1)
    latent = method.start(site())
    with torch.no_grad():
        latent["log_step"] -= 0.5  # so that some weights lie beyond the grid
    u, step = latent["u"].detach(), latent["log_step"].detach().exp()
    low, high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    w = method.project(site(), latent, state)
    v = u / step
    torch.testing.assert_close(w.detach(), v.clamp(low, high).round() * step)
    g = torch.randn(u.shape, generator=torch.Generator().manual_seed(1))
    of_u, of_log = torch.autograd.grad(w, (latent["u"], latent["log_step"]), g)
    inside = (v > low) & (v < high)
    torch.testing.assert_close(of_u, g * inside)
    of_step = torch.where(inside, v.round() - v, v.clamp(low, high))  # equation 3
    wanted = (g * of_step).sum() / (u.numel() * high) ** 0.5 * step  # section 2.2, and the logarithm's own
    torch.testing.assert_close(of_log, wanted)


def test_the_step_starts_where_the_paper_says() -> None:
    latent, w = QAT(bits=4).start(site()), site().weight()
    assert float(latent["log_step"].detach().exp()) == pytest.approx(2 * np.abs(w).mean() / np.sqrt(7), rel=1e-5)


def test_matrices_lie_on_grids_and_vectors_stay_numbers() -> None:
    made = QAT(bits=3, epochs=2.0).apply(tiny.opened("resnet"), tiny.evidence("resnet"))
    grids = {key: code for key, code in made.codes.items() if isinstance(code, Grid)}
    assert grids.keys() == {key for key, code in made.codes.items() if len(code.shape) > 1}
    assert all(code.bits_per_symbol == 3 for code in grids.values())


def test_a_layer_of_zeros_stays_zeros() -> None:
    module = tiny.build("chain")
    with torch.no_grad():
        module[0].weight.zero_()
    made = QAT(epochs=1.0).apply(Model.from_module(module), tiny.evidence("chain"))
    assert np.isfinite(made.codes["0.weight"].decode()).all()
