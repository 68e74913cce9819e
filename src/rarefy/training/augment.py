"""Augmentation: images a little otherwise, with the same label.

Random numbers are torch's own. The loop seeds them by the step, so a training that goes on sees the images that one
which was never stopped sees.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import torch
from torch.nn import functional

from rarefy.errors import UsageError

Augment = Callable[[torch.Tensor], torch.Tensor]
"""A batch of inputs, (n, ...), to one of the same shape; draws anew in each call."""


def augmentation(name: str) -> Augment:
    """One of AUGMENTATIONS by its name."""
    return AUGMENTATIONS[name]


def shifted(x: torch.Tensor, by: int) -> torch.Tensor:
    """Each image (n, c, h, w) moved by -by to by pixels down and right; zeros come in. Raises UsageError."""
    n, channels, height, width = _images(x)
    padded = functional.pad(x, (by, by, by, by))
    down, right = torch.randint(0, 2 * by + 1, (2, n, 1), device=x.device)
    rows = down + torch.arange(height, device=x.device)
    columns = right + torch.arange(width, device=x.device)
    image, channel = (torch.arange(k, device=x.device) for k in (n, channels))
    return padded[image[:, None, None, None], channel[:, None, None], rows[:, None, :, None], columns[:, None, None, :]]


def mirrored(x: torch.Tensor) -> torch.Tensor:
    """Every image (n, c, h, w) left to right with probability one half. Raises UsageError."""
    turned = torch.rand(_images(x)[0], 1, 1, 1, device=x.device) < 0.5
    return torch.where(turned, x.flip(-1), x)


def _images(x: torch.Tensor) -> torch.Size:
    if x.dim() != 4:
        raise UsageError(
            "only images can be augmented",
            f"the examples have shape {tuple(x.shape[1:])}, images (channels, height, width)",
            "leave out augment",
        )
    return x.shape


AUGMENTATIONS: Final[dict[str, Augment]] = {
    "none": lambda x: x,
    "shift": lambda x: shifted(x, by=1),
    "crop": lambda x: shifted(mirrored(x), by=4),
}
"""shift: by up to a pixel either way, for digits. crop: by up to four, and every second image mirrored, for photographs
(He et al. 2016, section 4.2)."""
