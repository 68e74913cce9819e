"""Losses against the measure's own divergences, their gradients against autograd's."""

import pytest
import torch

from rarefy.errors import UsageError
from rarefy.families import Law
from rarefy.measure.divergence import cosine_distance, gaussian_kl, softmax_kl
from rarefy.training import Objective, divergence, losses

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


@pytest.mark.parametrize(("soft", "temperature"), [(0.0, 1.0), (1.0, 1.0), (1.0, 4.0), (0.3, 2.5)])
def test_soft_and_hard_labels_are_weighed(soft: float, temperature: float) -> None:
    """Against Hinton's formula written with probabilities."""
    torch.manual_seed(1)
    original, z = 3 * torch.randn(6, 5), (3 * torch.randn(6, 5)).requires_grad_()
    labels = torch.tensor([0, 4, 1, 1, 3, 2])
    p, q = (original / temperature).softmax(-1), (z / temperature).softmax(-1)
    wanted = soft * temperature**2 * (p * (p / q).log()).sum(-1).mean()
    wanted = wanted - (1 - soft) * z.softmax(-1)[range(6), labels].log().mean()
    found = Objective("softmax", soft, temperature)(z, original, labels)
    torch.testing.assert_close(found, wanted)
    (a,), (b,) = torch.autograd.grad(found, z), torch.autograd.grad(wanted, z)
    torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-4)


def test_at_a_high_temperature_gradients_keep_their_size() -> None:
    """Hinton's equation 4: towards (z - v) / d of centred logits, whatever T."""
    torch.manual_seed(1)
    v, z = torch.randn(4, 5), torch.randn(4, 5)
    v, z = v - v.mean(1, keepdim=True), (z - z.mean(1, keepdim=True)).requires_grad_()
    (g,) = torch.autograd.grad(Objective("softmax", 1.0, 1000.0)(z, v), z)
    torch.testing.assert_close(g, (z.detach() - v) / (5 * 4), atol=1e-4, rtol=0.02)


def test_a_regression_has_targets() -> None:
    z, targets = torch.tensor([[1.0], [2.0]]), torch.tensor([3.0, 2.0])
    assert float(Objective("gaussian", 0.0)(z, None, targets)) == 1.0


@pytest.mark.parametrize(
    ("law", "labels", "said"),
    [
        ("softmax", None, "no y in the .npz"),
        ("embedding", torch.zeros(2, dtype=torch.int64), "embeddings have none"),
        ("softmax", torch.tensor([0, 3]), "not those of the network.*from 0 to 2"),
        ("softmax", torch.tensor([0.5, 1.0]), "not those of the network"),
    ],
)
def test_labels_that_are_none_are_refused(law: Law, labels: torch.Tensor | None, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        Objective(law, 0.5)(torch.zeros(2, 3), torch.zeros(2, 3), labels)
