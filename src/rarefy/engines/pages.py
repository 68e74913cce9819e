"""Giving back pages of a mapped file that have been read."""

from __future__ import annotations

import ctypes
import mmap
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

_DONTNEED = 4  # MADV_DONTNEED of Linux; mmap.MADV_DONTNEED is missing on other systems


def release(record: torch.Tensor) -> None:
    """Take the pages of a used-up record out of this process's memory. `record` must not be read again.

    safetensors maps the file, and a mapped page counts as resident from its first read to the end of the load: without
    this, a load ends with the whole artifact in memory beside the dense model. The page cache keeps the pages.
    Only pages that hold nothing but the record go, since in a private buffer they come back as zeros.
    """
    if sys.platform != "linux" or record.device.type != "cpu":
        return
    first = -(-record.data_ptr() // mmap.PAGESIZE) * mmap.PAGESIZE
    last = (record.data_ptr() + record.numel()) // mmap.PAGESIZE * mmap.PAGESIZE
    if last > first:
        ctypes.CDLL(None).madvise(ctypes.c_void_p(first), ctypes.c_size_t(last - first), _DONTNEED)
