"""What a user sees who imports rarefy, or does not, around transformers."""

from __future__ import annotations

import importlib
import importlib.util
import os
import subprocess
import sys
import threading
from types import ModuleType
from typing import TYPE_CHECKING

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.quantizers import auto

from rarefy.engines import hook

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from conftest import Pair

    Write = Callable[..., Pair]

OPEN = """
from transformers import AutoModelForCausalLM
model = AutoModelForCausalLM.from_pretrained(sys.argv[1])
print(model.state_dict()["model.norm.weight"].sum().item())
"""


def run(code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "import sys\n" + code, *map(str, arguments)]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120, env=environment)


@pytest.fixture
def artifact(write: Write) -> Path:
    config = LlamaConfig(
        vocab_size=32, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2
    )
    model = LlamaForCausalLM(config)
    torch.nn.init.constant_(model.model.norm.weight, 0.25)
    folder: Path = write(model).artifact
    return folder


def test_import_is_light() -> None:
    done = run(
        "import time; start = time.perf_counter(); import rarefy; spent = time.perf_counter() - start\n"
        "assert spent < 5, spent\n"
        "heavy = {'torch', 'transformers', 'rarefy.engines.plugin'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    assert done.returncode == 0, done.stderr


def test_import_alone_makes_from_pretrained_work(artifact: Path) -> None:
    done = run("import rarefy" + OPEN, artifact)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) == 16 * 0.25


def test_the_plug_in_may_be_imported_first() -> None:
    code = (
        "import rarefy.engines.plugin\n"
        "from transformers.quantizers.auto import AUTO_QUANTIZER_MAPPING\n"
        "assert 'rarefy' in AUTO_QUANTIZER_MAPPING"
    )
    done = run(code)
    assert done.returncode == 0, done.stderr
    assert not done.stderr


def test_without_rarefy_transformers_refuses(artifact: Path) -> None:
    done = run(OPEN, artifact)
    assert done.returncode != 0
    assert "Unknown quantization type, got rarefy" in done.stderr
    assert "size mismatch" in done.stderr


def registered() -> bool:
    return "rarefy" in auto.AUTO_QUANTIZER_MAPPING and "rarefy" in auto.AUTO_QUANTIZATION_CONFIG_MAPPING


def finders() -> list[object]:
    return [finder for finder in sys.meta_path if "rarefy.engines.hook" in type(finder).__qualname__]


def test_install_is_idempotent_and_thread_safe() -> None:
    threads = [threading.Thread(target=hook.install) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert registered()
    assert len(finders()) == 1


def test_survives_reloads() -> None:
    importlib.reload(auto)
    assert registered()
    importlib.reload(hook).install()
    assert registered()
    assert len(finders()) == 1
    importlib.reload(auto)
    assert registered()


def test_two_hooks_of_the_kind_do_not_chase_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    class Other:
        def find_spec(self, name: str, path: object = None, target: object = None) -> object:
            found = (finder.find_spec(name, path, target) for finder in sys.meta_path if finder is not self)
            return next((spec for spec in found if spec is not None), None)

    monkeypatch.setattr(sys, "meta_path", [Other(), *sys.meta_path])
    spec = importlib.util.find_spec(hook.REGISTRY)
    assert spec is not None
    assert hook.Finder().find_spec("json") is None


def test_an_old_registry_breaks_nothing(caplog: pytest.LogCaptureFixture) -> None:
    hook.register(ModuleType("transformers.quantizers.auto"))
    assert "install transformers 5.21 or newer" in caplog.text
    assert "\n" not in caplog.records[0].message
