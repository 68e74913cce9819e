"""The number of numerical threads: what a container grants counts, and what was set before comes back."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from rarefy import threads
from rarefy.errors import UsageError


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, 8),
        ({"cpu.max": "max 100000\n"}, 8),
        ({"cpu.max": "200000 100000\n"}, 2),
        ({"cpu.max": "150000 100000\n"}, 2),
        ({"cpu.max": "10000 100000\n"}, 1),
        ({"cpu.max": "6400000 100000\n"}, 8),
        ({"cpu.max": "nonsense"}, 8),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 8),
        ({"cpu/cpu.cfs_quota_us": "300000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 3),
    ],
)
def test_cores(files: dict[str, str], expected: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(threads, "_CGROUP", tmp_path)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: range(8), raising=False)
    assert threads.cores() == expected


def test_threads_are_set_and_put_back() -> None:
    before = torch.get_num_threads()
    for count in (1, 3):
        with threads.numerical_threads(count) as given:
            assert given == count == torch.get_num_threads()
    with threads.numerical_threads(None) as given:
        assert given == threads.cores()
    assert torch.get_num_threads() == before
    with pytest.raises(UsageError, match="at least 1"), threads.numerical_threads(0):
        pass
