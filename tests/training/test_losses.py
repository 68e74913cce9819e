"""Losses against the measure's own divergences, their gradients against autograd's."""

import pytest
import torch

from rarefy.families import Law
from rarefy.measure.divergence import cosine_distance, gaussian_kl, softmax_kl
from rarefy.training import divergence, losses

MEASURES = {"softmax": softmax_kl, "embedding": cosine_distance, "gaussian": gaussian_kl}


@pytest.mark.parametrize("law", sorted(MEASURES))
@pytest.mark.parametrize("shape", [(2, 9, 11), (5, 3), (4,)])
def test_value_and_gradient(law: Law, shape: tuple[int, ...], monkeypatch) -> None:
    monkeypatch.setattr(losses, "_VALUES_AT_ONCE", 40)  # rows in several parts
    torch.manual_seed(1)
    original, z = 3 * torch.randn(shape), (3 * torch.randn(shape)).requires_grad_()
    found, wanted = divergence(law)(original, z), MEASURES[law](original, z).mean()
    torch.testing.assert_close(found, wanted)
    (a,), (b,) = torch.autograd.grad(2 * found, z), torch.autograd.grad(2 * wanted, z)
    torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-4)


def test_what_the_original_excludes_costs_nothing() -> None:
    original = torch.tensor([[0.0, 1.0, -torch.inf]])
    z = torch.tensor([[0.0, 1.0, -torch.inf]], requires_grad=True)
    found = divergence("softmax")(original, z)
    assert float(found.detach()) == 0 and torch.equal(torch.autograd.grad(found, z)[0], torch.zeros(1, 3))


def test_bfloat16_logits_are_compared_in_float32() -> None:
    original, z = torch.randn(4, 50).bfloat16(), torch.randn(4, 50).bfloat16().requires_grad_()
    found = divergence("softmax")(original, z)
    torch.testing.assert_close(found, softmax_kl(original.float(), z.float()).mean())
    assert found.dtype == torch.float32 and torch.autograd.grad(found, z)[0].dtype == torch.bfloat16
