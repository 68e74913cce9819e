"""Output laws: probes have the law's Fisher as their second moment, which is the curvature of its distortion."""

import numpy as np
import pytest
import torch

from rarefy.errors import UsageError
from rarefy.evidence.laws import Gaussian, OutputLaw, Softmax, UnitEmbedding, output_law
from rarefy.measure.divergence import cosine_distance, gaussian_kl, softmax_kl

LAWS = [(Softmax(), softmax_kl), (UnitEmbedding(), cosine_distance), (Gaussian(), gaussian_kl)]


@pytest.mark.parametrize(("law", "distortion"), LAWS)
def test_the_mean_square_of_probes_is_the_hessian_of_the_distortion(law: OutputLaw, distortion) -> None:
    torch.manual_seed(0)
    z = torch.randn(5) * 2
    # Twice differentiated in float32, since that is what a distortion is computed in.
    hessian = torch.autograd.functional.hessian(lambda moved: distortion(z, moved), z.clone())
    n = 200_000
    g, diagonal = law.probe(z.expand(n, 5), np.random.default_rng(0))
    torch.testing.assert_close(g.T @ g / n, hessian, rtol=0.02, atol=0.01 * float(hessian.abs().max()))
    torch.testing.assert_close(diagonal.float() / n, hessian.diagonal(), rtol=1e-4, atol=1e-6)


def test_all_signs_of_three_classes_make_the_fisher_exactly() -> None:
    z = torch.tensor([0.3, -1.0, 2.0])
    p = z.softmax(0)
    signs = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0])] * 3)
    g, _ = Softmax()._probe(z.expand(8, 3), signs)
    torch.testing.assert_close(g.T @ g / 8, p.diag() - p.outer(p))


def test_signs_vary_less_than_labels_drawn_from_a_confident_law() -> None:
    """Why no labels are drawn: the same mean, a fraction of the noise."""
    torch.manual_seed(0)
    z = torch.tensor([6.0, 1.0, 0.5, 0.0]).expand(20_000, 4)  # 99 % sure
    p = z.softmax(-1)
    exact = (p * (1 - p))[0]
    labels = torch.nn.functional.one_hot(torch.multinomial(p, 1).squeeze(1), 4)
    probed = Softmax().probe(z, np.random.default_rng(0))[0].square()
    drawn = (p - labels).square()
    for found in (probed, drawn):
        torch.testing.assert_close(found.mean(0), exact, rtol=0.3, atol=0)
    assert (probed.var(0) < drawn.var(0) / 10).all()


def test_probes_are_seeded_and_like_what_they_are_of(monkeypatch) -> None:
    z = torch.randn(3, 4, 7, dtype=torch.bfloat16)
    g, diagonal = Softmax().probe(z, np.random.default_rng(1))
    assert g.dtype == z.dtype and g.shape == z.shape and diagonal.dtype == torch.float64
    again, _ = Softmax().probe(z, np.random.default_rng(1))
    other, _ = Softmax().probe(z, np.random.default_rng(2))
    assert torch.equal(g, again) and not torch.equal(g, other)
    monkeypatch.setattr("rarefy.evidence.laws._VALUES_AT_ONCE", 14)  # two laws at a time
    parts, same = Softmax().probe(z, np.random.default_rng(1))
    assert parts.shape == z.shape
    torch.testing.assert_close(same, diagonal)


def test_what_a_law_reads() -> None:
    hidden = torch.randn(2, 3, 4)
    torch.testing.assert_close(UnitEmbedding().read({"last_hidden_state": hidden}), hidden.mean(1))
    maps = torch.randn(2, 3, 4, 5)
    torch.testing.assert_close(UnitEmbedding().read((maps,)), maps.mean((2, 3)))
    logits = torch.randn(2, 5)
    assert Softmax().read({"logits": logits}) is logits and Gaussian().read(logits) is logits
    with pytest.raises(UsageError, match="the network's output is not understood: it is a dict"):
        Softmax().read({"loss": 1.0})


def test_laws_by_name() -> None:
    assert [type(output_law(name)) for name in ("softmax", "embedding", "gaussian")] == [
        Softmax,
        UnitEmbedding,
        Gaussian,
    ]
