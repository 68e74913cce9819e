"""This processor: how many numerical threads, ours to fix since factorizations change their last bits with it, and
which types it is quick in."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Iterator
from pathlib import Path

from threadpoolctl import threadpool_limits

from rarefy.errors import UsageError
from rarefy.processes import beside

_CGROUP = Path("/sys/fs/cgroup")


def cores() -> int:
    """Processors this process may use: of those it may run on, no more than a container's quota pays for."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
    return max(1, min(allowed, math.ceil(_quota() or allowed)))


def quick_in(dtype: str) -> bool:
    """Whether this processor multiplies matrices of torch's type `dtype` no slower than float32 ones: it is so for
    bfloat16 where oneDNN has kernels for it, and never for float16."""
    import torch

    return dtype == "float32" or (dtype == "bfloat16" and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported()))


def _quota() -> float:
    """Processors that the container's own cgroup, version 2 or 1, grants; 0 where there is no limit."""
    for files in (("cpu.max",), ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us")):
        try:
            quota, period = map(float, " ".join((_CGROUP / file).read_text() for file in files).split())
        except (OSError, ValueError):  # "max" is no limit
            continue
        if quota > 0 and period > 0:
            return quota / period
    return 0.0


@contextlib.contextmanager
def numerical_threads(threads: int | None) -> Iterator[int]:
    """Fix the threads of numerical libraries inside the block to `threads`; yields the number.

    Unless told they are the cores, shared with the other processes that torchrun started on this machine.

    torch, which does the large products, uses them all. NumPy's BLAS keeps to one: it is left with vectors, where
    waking a second thread costs more than it brings, and ruins everything on a busy machine.
    """
    import scipy.linalg  # noqa: F401 - brings a BLAS of its own, and only a library that is loaded can be limited
    import torch

    count = max(1, cores() // beside()) if threads is None else threads
    if count < 1:
        raise UsageError(f"threads={count}", "it must be at least 1")
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        with threadpool_limits(1, user_api="blas"):
            yield count
    finally:
        torch.set_num_threads(before)
