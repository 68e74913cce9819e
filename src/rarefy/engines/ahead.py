"""Records decoded ahead of a loader that asks for one after the other, on all cores."""

from __future__ import annotations

import math
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import torch

from rarefy.engines.pages import release
from rarefy.engines.tensors import TORCH, tensor
from rarefy.errors import FormatError
from rarefy.files import record as records

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future

    from rarefy.codes import Code

    Make = Callable[[Code, torch.dtype], Any]
    """Something of a code and the type that its parameter had, on the thread that decodes."""

AHEAD: Final = 1 << 22
"""Bytes of records that may be under way at once, some ten million weights at 3 bits: each takes a few bytes of memory
beside the tensor that it becomes."""


@dataclass(frozen=True)
class Decoded:
    """What a record holds. dtype: that its parameter had. made: what was made of the code, None where nothing was."""

    code: Code
    dtype: torch.dtype
    made: Any


def restored(dtype: torch.dtype | None) -> Make:
    """What makes tensors of codes, in `dtype` (None: the type that their parameter had)."""
    return lambda code, own: tensor(code, dtype or own)


def decoded(record: torch.Tensor, make: Make | None = None, threads: int = 1) -> Decoded:
    """The code of a record, and what is made of it.

    After a tensor is, the record's pages are given back, and neither it nor the code must be read again.

    Raises FormatError for what is no record, or a damaged one.
    """
    if record.dtype != torch.uint8 or record.dim() != 1:
        raise FormatError("its tensor is not a record")
    coded = record.cpu()
    code, own = records.decode(coded.numpy().data, threads)
    made = None if make is None else make(code, TORCH[own])
    if isinstance(made, torch.Tensor):
        release(coded)
    return Decoded(code, TORCH[own], made)


@dataclass
class _Job:
    """A record that `owner` will ask for. decode: its work, on so many threads. size: its bytes."""

    owner: object
    decode: Callable[[int], Decoded]
    size: int
    found: Future[Decoded] | None = None


class Ahead:
    """Records in the order in which they will be asked for: the next ones are decoded while the first is waited for.

    A thread decodes a record; one of more than AHEAD bytes is alone, and has all threads.
    """

    def __init__(self, threads: int) -> None:
        self._threads = threads
        self._pool = ThreadPoolExecutor(threads, "rarefy-decode")
        self._later: deque[_Job] = deque()
        self._begun: deque[_Job] = deque()

    def add(self, owner: object, record: Any, make: Make | None = None) -> None:
        """A record, or safetensors' slice that gives one by `[...]`, to be `decoded` for `owner`."""

        def decode(threads: int) -> Decoded:
            return decoded(record[...], make, threads)

        shape = record.shape if isinstance(record, torch.Tensor) else record.get_shape()
        self._later.append(_Job(owner, decode, math.prod(shape)))
        self._begin()

    def take(self, owner: object) -> Decoded:
        """What the record of `owner` holds; those before it, which nobody has asked for, are forgotten.

        Raises what `decoded` raises, LookupError where there is no such record.
        """
        while self._begun:
            job = self._begun[0]
            assert job.found is not None  # as it is under way
            try:
                if job.owner is owner:
                    return job.found.result()
                job.found.cancel()
            finally:
                self._begun.popleft()
                self._begin()
        raise LookupError("no record waits for this owner")

    def close(self) -> None:
        """End the threads."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _begin(self) -> None:
        """Set about as many records as there is room for, and one in any case."""
        under_way = sum(job.size for job in self._begun)
        while self._later and (not self._begun or under_way + self._later[0].size <= AHEAD):
            job = self._later.popleft()
            job.found = self._pool.submit(job.decode, self._threads if job.size > AHEAD else 1)
            self._begun.append(job)
            under_way += job.size
