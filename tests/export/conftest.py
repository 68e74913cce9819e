"""Tiny networks of transformers as artifacts would hold them, on blocks of token ids."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tiny
import transformers
from export.coded import Coder

from rarefy.evidence.sources import Tokens
from rarefy.model import Model
from rarefy.opening import open_model


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("TQDM_DISABLE", "1")


@pytest.fixture
def opened(tmp_path: Path) -> Callable[..., Model]:
    """opened(network, coder) -> the model from disk, its linear layers coded."""

    def opened(network: transformers.PreTrainedModel, coder: Coder | None = None) -> Model:
        network.save_pretrained(tmp_path / "original")
        model = open_model(tmp_path / "original")
        if coder is None:
            return model
        linear = [key for key in model.codes if key.endswith("proj.weight")]
        codes = {key: model.codes[key] for key in model.codes} | {
            key: coder(model.codes[key].decode()) for key in linear
        }
        return dataclasses.replace(model, codes=codes)

    return opened


@pytest.fixture
def data() -> Tokens:
    ids = np.random.default_rng(7).integers(3, tiny.VOCABULARY, (2, 12))
    return Tokens(ids, "", "random ids")
