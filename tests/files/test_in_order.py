"""Results come in the order of items, whoever made them."""

from __future__ import annotations

import threading
import time

import pytest

from rarefy.files.in_order import in_order


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_results_come_in_order(threads: int) -> None:
    def slow(item: int) -> int:
        time.sleep(0.002 * (item % 3))
        return item * item

    assert list(in_order(slow, range(40), threads)) == [item * item for item in range(40)]
    assert list(in_order(slow, [], threads)) == []


def test_the_caller_works_too_and_all_threads_end() -> None:
    before = threading.enumerate()
    together = threading.Barrier(3, timeout=60)

    def meet(item: int) -> int:
        together.wait()
        return threading.get_ident()

    workers = list(in_order(meet, range(3), 3))
    assert len(set(workers)) == 3
    assert threading.get_ident() in workers
    assert set(threading.enumerate()) <= set(before)  # of other tests some may have ended


def test_items_are_taken_as_they_are_needed() -> None:
    taken: list[int] = []
    results = in_order(lambda item: item, (taken.append(i) or i for i in range(100)), 2)
    for i in range(10):
        assert next(results) == i
        assert len(taken) <= i + 4
    results.close()
    assert len(taken) <= 14


@pytest.mark.parametrize("threads", [1, 2])
def test_the_first_error_ends_it_in_its_turn(threads: int) -> None:
    def odd(item: int) -> int:
        if item in (5, 6):
            raise ValueError(f"no {item}")
        return item

    results, got = in_order(odd, range(50), threads), []
    with pytest.raises(ValueError, match="no 5"):
        for result in results:
            got.append(result)
    assert got == [0, 1, 2, 3, 4]
