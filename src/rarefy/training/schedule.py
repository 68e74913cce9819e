"""Schedules: what share of the learning rate a step has."""

from __future__ import annotations

import math


def cosine(step: int, steps: int, warmup: float) -> float:
    """Share of the rate in step 0, 1, ... of `steps`: a line up over the first `warmup` (share of steps), then half a
    cosine down to about zero (Loshchilov and Hutter 2017, without restarts)."""
    rising = math.ceil(warmup * steps)
    if step < rising:
        return (step + 1) / (rising + 1)
    return 0.5 + 0.5 * math.cos(math.pi * (step - rising) / max(1, steps - rising))
