"""What config.json and manifest.json may say of a network."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import golden

from attacks import attack
from rarefy.files import container, manifest
from rarefy.files.atomic import canonical_json

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from attacks import Make


def network(tensors: int = 1, **config: Any) -> Make:
    """A Llama that says it is larger than its tensors."""

    def make(folder: Path) -> None:
        sizes = {"hidden_size": 32, "intermediate_size": 32, "vocab_size": 16, "num_attention_heads": 4}
        told = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", **sizes, **config}
        (folder / "config.json").write_text(json.dumps(told))
        empty = (golden.FOLDER / "empty.record").read_bytes()
        more = [(f"model.layers.{i}", empty) for i in range(tensors - 1)]
        container.write(folder, [("model.embed_tokens.weight", golden.items()[0][1]), *more])
        manifest.write(folder, {"model": {"kind": "transformers"}, "history": []})

    return make


def whole(folder: Path) -> None:
    """No attack: a network with all its tensors."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=16, hidden_size=32, intermediate_size=32, num_attention_heads=4, num_hidden_layers=1
    )
    LlamaForCausalLM(config).save_pretrained(folder)


def manifested(change: Callable[[dict[str, Any]], Any], proven: bool = True) -> Make:
    """An artifact whose manifest was changed, its digest made right again if `proven`."""

    def make(folder: Path) -> None:
        network()(folder)
        content = json.loads((folder / "manifest.json").read_text())
        change(content)
        if proven:
            del content["digest"]
            content["digest"] = manifest._digest(content)
        (folder / "manifest.json").write_bytes(canonical_json(content))

    return make


def quoted(folder: Path) -> None:
    network()(folder)
    (folder / "config.json").write_text("[" * 100_000)


attack("gigantic", "a network of 10^9 layers", network(num_hidden_layers=10**9), "num_hidden_layers = 1000000000")
attack(
    "gigantic", "a network of 50,000 layers in a list", network(text_config={"n_layers": [50_000]}), "n_layers = 50000"
)
attack("gigantic", "a network of 10^15 columns", network(hidden_size=10**15), "hidden_size = 1000000000000000")
attack("gigantic", "a network of 10^15 rotations", network(head_dim=10**15), "head_dim = 1000000000000000")
attack(
    "gigantic", "a network of more layers than tensors", network(num_hidden_layers=16), "more parameters than the 1 "
)
attack(
    "gigantic", "500 layers for 2,000 tensors", network(2000, num_hidden_layers=500), "more parameters than the 2000 "
)
attack("gigantic", "a config 100,000 deep", quoted, "cannot read .*config.json")
attack("lying", "a network without its tensors", network(num_hidden_layers=1), "the weights lack")
attack("path tricks", "a manifest of files outside", manifested(lambda m: m["files"].update({"../x": {}})), "malformed")
attack("lying", "a manifest changed under its digest", manifested(lambda m: m.update(x=1), False), "digest is wrong")
attack(
    "lying",
    "a manifest that names code to run",
    manifested(lambda m: m.update(model={"kind": "factory", "factory": "os:getcwd"})),
    "which code runs",
)
attack(
    "lying", "a history that is none", manifested(lambda m: m.update(history=[{"x": 1}])), "history cannot be read|lack"
)
