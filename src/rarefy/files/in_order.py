"""Work on threads whose results come in order, with bounded memory."""

from __future__ import annotations

from collections import deque
from contextlib import suppress
from queue import Empty, SimpleQueue
from threading import Lock, Thread
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

S = TypeVar("S")
T = TypeVar("T")


def in_order(function: Callable[[S], T], items: Iterable[S], threads: int) -> Iterator[T]:
    """function over items on `threads` threads, results in the order of items, which are taken as they are needed.

    At most two items a thread are begun and their results not taken. The first error ends it. The caller's thread is
    one of them: to sleep until others are done and to be woken takes as long as restoring thousands of weights.
    """
    if threads == 1:
        yield from map(function, items)
        return
    waiting: deque[_Job[S, T]] = deque()
    todo: SimpleQueue[_Job[S, T] | None] = SimpleQueue()
    others = [Thread(target=_work, args=(todo,)) for _ in range(threads - 1)]
    for thread in others:
        thread.start()
    try:
        for item in items:
            job = _Job(function, item)
            waiting.append(job)
            todo.put(job)
            if len(waiting) == 2 * threads:
                yield _first(waiting, todo)
        while waiting:
            yield _first(waiting, todo)
    finally:
        with suppress(Empty):
            while True:
                todo.get_nowait()
        for _ in others:
            todo.put(None)
        for thread in others:
            thread.join()


class _Job(Generic[S, T]):
    """One item, and in the end its result or what went wrong."""

    def __init__(self, function: Callable[[S], T], item: S) -> None:
        self.function, self.item = function, item
        self.results: list[T] = []
        self.error: BaseException | None = None
        self.done = Lock()
        self.done.acquire()

    def do(self) -> None:
        try:
            self.results.append(self.function(self.item))
        except BaseException as error:  # raised when its turn comes
            self.error = error
        self.done.release()


def _work(todo: SimpleQueue[_Job[S, T] | None]) -> None:
    while job := todo.get():
        job.do()


def _first(waiting: deque[_Job[S, T]], todo: SimpleQueue[_Job[S, T] | None]) -> T:
    """The result of the first, others being done while it is not there."""
    first = waiting.popleft()
    while first.done.locked():
        try:
            job = todo.get_nowait()
        except Empty:
            first.done.acquire()
            break
        if job:
            job.do()
    if first.error is not None:
        raise first.error
    return first.results[0]
