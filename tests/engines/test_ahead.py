"""Records decoded ahead of a loader: each owner gets its own, whatever was asked for before."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import torch

from rarefy.codes import Dense
from rarefy.codes.separable import Separable
from rarefy.engines import ahead
from rarefy.engines.ahead import Ahead, decoded, restored
from rarefy.errors import FormatError
from rarefy.files import record


def coded(seed: int, n: int = 20) -> torch.Tensor:
    rng = np.random.default_rng(seed)
    q = rng.integers(-5, 6, (n, 30)).astype(np.int32)
    code = Separable(q, np.zeros(n, np.int16), np.zeros(30, np.int16), shape=q.shape)
    return torch.frombuffer(bytearray(record.encode(code, "BF16")), dtype=torch.uint8)


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("room", [0, 1000, ahead.AHEAD])
def test_every_owner_gets_its_own(threads: int, room: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ahead, "AHEAD", room)
    waiting, owners = Ahead(threads), [object() for _ in range(9)]
    for seed, owner in enumerate(owners):
        waiting.add(owner, coded(seed), restored(torch.float32))
    for seed, owner in enumerate(owners):
        if seed not in (0, 4, 5):  # nobody asks for these
            found = waiting.take(owner)
            assert found.made.dtype == torch.float32 and found.dtype == torch.bfloat16
            assert torch.equal(found.made, decoded(coded(seed), restored(torch.float32)).made)
    with pytest.raises(LookupError):
        waiting.take(owners[0])
    waiting.close()


def test_no_more_is_under_way_than_there_is_room_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ahead, "AHEAD", 1500)  # two records of 600 bytes
    begun, go = [], threading.Event()

    def slow(record: torch.Tensor, *_: object) -> int:
        begun.append(int(record[0]))
        go.wait()
        return int(record[0])

    monkeypatch.setattr(ahead, "decoded", slow)
    waiting, owners = Ahead(8), [object() for _ in range(5)]
    for number, owner in enumerate(owners):
        waiting.add(owner, torch.full((600,), number, dtype=torch.uint8))
    assert len(waiting._begun) == 2 and set(begun) <= {0, 1}
    go.set()
    assert [waiting.take(owner) for owner in owners] == [0, 1, 2, 3, 4]


def test_what_is_damaged_is_said_when_it_is_asked_for() -> None:
    waiting, owners = Ahead(2), [object() for _ in range(4)]
    broken = coded(1)
    broken[len(broken) // 2] ^= 1
    for owner, each in zip(owners, [coded(0), broken, torch.zeros(3), broken[:2]], strict=True):
        waiting.add(owner, each, restored(None))
    assert waiting.take(owners[0]).made is not None
    for owner in owners[1:]:
        with pytest.raises(FormatError):
            waiting.take(owner)


def test_codes_alone_are_not_restored() -> None:
    waiting, owner = Ahead(2), object()
    waiting.add(owner, coded(0))
    found = waiting.take(owner)
    assert found.made is None and not isinstance(found.code, Dense)
