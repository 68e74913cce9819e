"""Output laws: what a network's output says, and how far a small change of it moves that, in nats.

For an output z and a small change dz the distortion is 1/2 dz^T F dz, F being the law's Fisher information. `probe`
draws g with E[g g^T] = F, one for each law of a batch: g = B e with B B^T = F and random signs e. Backpropagated, such
g is to every layer what the gradient of the negative log-likelihood of a label drawn from the law is, and varies less:
of a law that is 99 % sure, one label in a hundred carries all of F.

Sources: Amari (1998); Hutchinson (1990) for the signs; Martens (2020), New insights and perspectives on the natural
gradient method, section 9, for the Fisher of an output layer.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from rarefy.errors import UsageError

if TYPE_CHECKING:
    import torch

    from rarefy.families import Law

_VALUES_AT_ONCE = 1 << 22  # 16 MB of each float32 array


class OutputLaw(ABC):
    """Laws (..., d) of one kind."""

    def read(self, output: Any) -> torch.Tensor:
        """What the laws are made of, (..., d), among what the network returns. Raises UsageError."""
        return _tensor(output, "logits")

    def probe(self, z: torch.Tensor, random: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        """(g, f) for outputs z (..., d): g like z with E[g g^T] = F of each law, f (d,) float64 the sum of the
        diagonals of F. In float32, whatever z is in."""
        import torch

        rows = z.detach().reshape(-1, z.shape[-1])
        g = torch.empty_like(rows)
        diagonal = torch.zeros(rows.shape[1], dtype=torch.float64, device=z.device)
        step = max(1, _VALUES_AT_ONCE // max(1, rows.shape[1]))
        for start in range(0, len(rows), step):
            part = rows[start : start + step].float()
            made, f = self._probe(part, _signs(part.shape, random).to(part))
            g[start : start + step] = made
            diagonal += f.sum(0)
        return g.reshape(z.shape), diagonal

    @abstractmethod
    def _probe(self, z: torch.Tensor, signs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """B e and the diagonals of F, both (n, d)."""


class Softmax(OutputLaw):
    """F = diag(p) - p p^T = B B^T with B = diag(sqrt p) - p (sqrt p)^T."""

    def _probe(self, z: torch.Tensor, signs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        p = z.softmax(-1)
        drawn = p.sqrt().mul_(signs)
        drawn.addcmul_(p, drawn.sum(-1, keepdim=True), value=-1)
        return drawn, p.addcmul_(p, p, value=-1)


class UnitEmbedding(OutputLaw):
    """Distortion 1 - cos = 1/2 |du|^2 of u = z / |z|: F = B B^T with B = (I - u u^T) / |z|.

    Hidden states (B, T, d) or (B, d, height, width) are averaged over the positions, as when they are evaluated.
    """

    def read(self, output: Any) -> torch.Tensor:
        found = _tensor(output, "sentence_embedding", "text_embeds", "image_embeds", "last_hidden_state")
        if found.dim() == 3:
            return found.mean(1)
        return found.mean((2, 3)) if found.dim() == 4 else found

    def _probe(self, z: torch.Tensor, signs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        length = z.norm(dim=-1, keepdim=True).clamp_min(1e-12)
        u = z / length
        return (signs - u * (u * signs).sum(-1, keepdim=True)) / length, (1 - u * u) / length.square()


class Gaussian(OutputLaw):
    """N(z, I): F = I. In units of the targets; evaluation divides by the variance of the outputs."""

    def _probe(self, z: torch.Tensor, signs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        import torch

        return signs, torch.ones_like(z)


def output_law(law: Law) -> OutputLaw:
    """The law of that name."""
    kinds: dict[Law, type[OutputLaw]] = {"softmax": Softmax, "embedding": UnitEmbedding, "gaussian": Gaussian}
    return kinds[law]()


def _signs(shape: tuple[int, ...], random: np.random.Generator) -> torch.Tensor:
    """-1 and 1, int8, a random bit each: torch's own take 50 ns an element."""
    import torch

    count = math.prod(shape)
    bits = np.unpackbits(np.frombuffer(random.bytes(-(-count // 8)), np.uint8), count=count)
    return torch.from_numpy(bits).view(torch.int8).mul_(2).sub_(1).reshape(shape)


def _tensor(output: Any, *names: str) -> torch.Tensor:
    """The tensor among what networks return: itself, by name, or the first of a tuple."""
    import torch

    for name in names:
        found = output.get(name) if isinstance(output, Mapping) else getattr(output, name, None)
        if isinstance(found, torch.Tensor):
            return found
    first = output[0] if isinstance(output, tuple) and output else output
    if not isinstance(first, torch.Tensor):
        raise UsageError("the network's output is not understood", f"it is a {type(output).__name__}, not a tensor")
    return first
