"""Distortion: how far a compressed network's output law is from the original's, in nats.

Three laws, as DESIGN has them: softmax over classes or tokens; a Gaussian around a regression's
output; a unit embedding. All is computed in float32, whatever the networks ran in.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

Law = Callable[[Tensor, Tensor], Tensor]
"""Outputs of the original and of the compressed network (..., d) to nats, one for each law (...)."""

_VALUES_AT_ONCE = 1 << 22  # of each network's logits: 16 MB in float32


def softmax_kl(original: Tensor, compressed: Tensor) -> Tensor:
    """KL(original || compressed) of the softmax laws.

    Args:
        original, compressed: logits (..., V) of any floating type. A logit may be -inf.

    Returns:
        (...) float32, nats. Infinite where the compressed law excludes what the original does not.

    Source: Kullback and Leibler (1951); Hinton, Vinyals and Dean (2015) at temperature 1.
    """
    return _by_chunks(_softmax_kl, original, compressed)


def cosine_distance(original: Tensor, compressed: Tensor) -> Tensor:
    """1 - cosine of embeddings (..., d), as (...) float32.

    As a distortion it is the KL between von Mises-Fisher laws up to their concentration, since both
    grow with 1 - cosine. Computed as half the squared distance of the unit vectors, which keeps its
    digits where the cosine nears 1.
    """
    u, v = functional.normalize(original.float(), dim=-1), functional.normalize(compressed.float(), dim=-1)
    return (u - v).square().sum(-1) / 2


def gaussian_kl(original: Tensor, compressed: Tensor, variance: float = 1.0) -> Tensor:
    """KL between the isotropic Gaussians N(original, variance) and N(compressed, variance).

    Args:
        original, compressed: means (..., d).
        variance: of both laws. ``evaluate`` takes the variance of the original's outputs over the
            examples, averaged over d, so that the result does not depend on the target's unit.

    Returns:
        (...) float32, nats: half the squared error over the variance.
    """
    return (original.float() - compressed.float()).square().sum(-1) / (2.0 * variance)


def negative_log_likelihood(logits: Tensor, targets: Tensor) -> Tensor:
    """-log softmax(logits)[targets] in nats.

    Args:
        logits: (..., V) of any floating type.
        targets: (...) int64 class or token ids.

    Returns:
        (...) float32.
    """
    return _by_chunks(_negative_log_likelihood, logits, targets.unsqueeze(-1))


def _softmax_kl(original: Tensor, compressed: Tensor) -> Tensor:
    log_p = functional.log_softmax(original.float(), dim=-1)
    log_q = functional.log_softmax(compressed.float(), dim=-1)
    p = log_p.exp()
    # Where p is zero so is the term, even against log q = -inf, where arithmetic says 0 * nan.
    return torch.where(p > 0, p * (log_p - log_q), 0.0).sum(-1)


def _negative_log_likelihood(logits: Tensor, targets: Tensor) -> Tensor:
    logits = logits.float()
    return (logits.logsumexp(-1, keepdim=True) - logits.gather(-1, targets)).squeeze(-1)


def _by_chunks(law: Law, first: Tensor, second: Tensor) -> Tensor:
    """Apply a law to a few rows at a time: the float32 copies of all logits would outweigh small networks."""
    shape = first.shape[:-1]
    a, b = first.reshape(-1, first.shape[-1]), second.reshape(-1, second.shape[-1])
    rows = max(1, _VALUES_AT_ONCE // max(1, a.shape[-1]))
    if not len(a):
        return torch.zeros(shape)
    parts = zip(torch.split(a, rows), torch.split(b, rows), strict=True)
    return torch.cat([law(x, y) for x, y in parts]).reshape(shape)
