"""Written-out gradients against autograd through the same formulas."""

import torch

from rarefy.training.rounding import pull, rounded

TOP = 3


def data() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    u = torch.randn(6, 5).requires_grad_()
    return u, torch.tensor(0.4, requires_grad=True), torch.randn(6, 5)


def test_rounding_is_straight_through_and_moves_the_step() -> None:
    u, step, g = data()
    v = u / step
    q = v.detach().round().clamp(-TOP, TOP)
    w = rounded(u, step, TOP)
    torch.testing.assert_close(w, q * step)
    of_u, of_step = torch.autograd.grad(w, (u, step), g)
    torch.testing.assert_close(of_u, g)
    torch.testing.assert_close(of_step, (g * (q - v)).sum().detach())


def test_the_pull_is_a_weighed_l1_norm() -> None:
    u, step, slope = data()
    slope = slope.abs()
    found, wanted = pull(u, step, slope), (slope * u.abs() / step).sum()
    torch.testing.assert_close(found, wanted)
    for a, b in zip(torch.autograd.grad(found, (u, step)), torch.autograd.grad(wanted, (u, step)), strict=True):
        torch.testing.assert_close(a, b)
