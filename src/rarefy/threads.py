"""The number of numerical threads: ours to fix, since factorizations change their last bits with it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from threadpoolctl import threadpool_limits

from rarefy.errors import UsageError


def cores() -> int:
    """Processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)


@contextlib.contextmanager
def numerical_threads(threads: int | None) -> Iterator[int]:
    """Every numerical library uses `threads` threads (default: the cores) inside the block; yields the number."""
    import scipy.linalg  # noqa: F401 - brings a BLAS of its own, and only a library that is loaded can be limited
    import torch

    count = cores() if threads is None else threads
    if count < 1:
        raise UsageError(f"threads={count}", "it must be at least 1")
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        with threadpool_limits(count):
            yield count
    finally:
        torch.set_num_threads(before)
