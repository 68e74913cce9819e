"""Networks, data, and what an ordinary run makes of them; `runs` can be imported however pytest is started."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))

from runs import digest, make_llama, run


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@pytest.fixture(scope="session")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Not to be changed."""
    return make_llama(tmp_path_factory.mktemp("network") / "llama")


@pytest.fixture(scope="session")
def ids(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("data") / "ids.npz"
    np.savez(file, x=np.random.default_rng(0).integers(0, 64, (8, 16)))
    return file


@pytest.fixture(scope="session")
def expected(llama: Path, ids: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What an ordinary run writes."""
    out = tmp_path_factory.mktemp("expected") / "out"
    run(llama, out, ids)
    return digest(out)
