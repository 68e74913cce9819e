"""Networks without weights: built on the meta device, never from remote code, their side files known."""

import json

import pytest
import tiny
import torch
from torch import nn

from rarefy.errors import FormatError, RarefyError, UsageError
from rarefy.skeletons import FactorySkeleton, ModuleSkeleton, TransformersSkeleton, digest_of, hollow


def write(folder, config) -> TransformersSkeleton:
    (folder / "config.json").write_text(config if isinstance(config, str) else json.dumps(config))
    return TransformersSkeleton.at(folder)


@pytest.mark.parametrize(
    ("config", "line"),
    [
        ("{", "cannot read .*config.json"),
        ("[]", "config.json is not a JSON object"),
        ({}, 'config.json names no architecture; add "architectures"'),
        ({"architectures": []}, "names no architecture"),
        ({"architectures": "LlamaForCausalLM"}, "names no architecture"),
        ({"architectures": ["Nothing"], "auto_map": {"AutoModel": "x.Y"}}, "has no Nothing: it needs remote code"),
        ({"architectures": ["pipeline"]}, "has no pipeline"),
        ({"architectures": ["LlamaConfig"]}, "LlamaConfig cannot be built|has no LlamaConfig"),
        ({"architectures": ["LlamaForCausalLM"], "hidden_size": "x"}, "LlamaForCausalLM cannot be built"),
        ({"architectures": ["LlamaForCausalLM"], "hidden_size": -4}, "LlamaForCausalLM cannot be built"),
    ],
)
def test_configs_that_build_nothing_are_one_line(tmp_path, config, line: str) -> None:
    with pytest.raises(RarefyError, match=line) as caught:
        write(tmp_path, config).build()
    assert "\n" not in str(caught.value)


def test_remote_code_never_runs(tmp_path) -> None:
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    config = tiny.build("llama").config.to_dict() | {
        "architectures": ["EvilForCausalLM"],
        "auto_map": {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.EvilForCausalLM"},
    }
    with pytest.raises(RarefyError, match="it needs remote code, which Rarefy never runs"):
        write(tmp_path, config).build()
    write(tmp_path, config | {"architectures": ["LlamaForCausalLM"]}).build()
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", ["llama_tied", "bert_classifier", "resnet"])
def test_weights_are_on_the_meta_device_and_buffers_real(name: str, tmp_path) -> None:
    net = tiny.build(name)
    config = net.config.to_dict() | {"architectures": [type(net).__name__], "quantization_config": {"x": 1}}
    skeleton = write(tmp_path, config)
    module = skeleton.build()
    assert all(p.is_meta for p in module.parameters()) and not any(b.is_meta for b in module.buffers())
    assert not module.training and "quantization_config" not in skeleton.config()
    assert set(module.state_dict()) == set(net.state_dict())
    assert skeleton.ties == ModuleSkeleton(net).ties
    assert skeleton.describe() == {"kind": "transformers", "architecture": type(net).__name__}


def test_hollow_copies_leave_the_module_alone() -> None:
    shared = nn.Linear(3, 3)
    net = nn.Sequential(shared, nn.BatchNorm1d(3), nn.Sequential(shared))
    net.train()
    copy = hollow(net)
    assert copy[0].weight is copy[2][0].weight and copy[0].weight.is_meta and not copy.training and net.training
    assert torch.equal(copy[1].running_var, torch.ones(3)) and copy[1].running_var is not net[1].running_var
    assert not net[0].weight.is_meta and ModuleSkeleton(net).ties == {"2.0.weight": "0.weight", "2.0.bias": "0.bias"}


def test_side_files_are_what_is_neither_weight_nor_hidden_nor_ours(tmp_path) -> None:
    kept = ["tokenizer.json", "LICENSE", "sub/1_Pooling/config.json", "merges.txt", "a b.md"]
    left = ["config.json", "model.safetensors", "pytorch_model.bin", "model.safetensors.index.json", "manifest.json"]
    left += ["recipe.toml", ".git/HEAD", ".cache/x", "__pycache__/x.pyc", "onnx/model.onnx", "x.gguf"]
    for name in [*kept, *left]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("{}")
    found = [str(path) for path in TransformersSkeleton({}, tmp_path).side_files()]
    assert sorted(found) == sorted(kept)


def test_the_digest_follows_config_and_side_files(tmp_path) -> None:
    config = tiny.build("llama").config.to_dict() | {"architectures": ["LlamaForCausalLM"]}
    digests = {digest_of(write(tmp_path, config))}
    (tmp_path / "LICENSE").write_text("mine")
    digests.add(digest_of(write(tmp_path, config)))
    digests.add(digest_of(write(tmp_path, config | {"rms_norm_eps": 1e-3})))
    assert len(digests) == 3


FACTORY = """
from torch import nn
import torch
def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
def number():
    return 3
def fails():
    raise ValueError("no such luck")
def wants(x):
    return x
value = 7
"""


@pytest.mark.parametrize(
    ("factory", "line"),
    [
        ("made_up:net", "made_up:net cannot be called: No module named 'made_up'; name an importable function"),
        ("factories:absent", "has no attribute 'absent'"),
        ("factories:number", "factories:number returned int; return a torch.nn.Module"),
        ("factories:fails", "factories:fails failed: ValueError: no such luck"),
        ("factories:wants", "factories:wants failed: TypeError"),
        ("factories:value", "factories:value failed: TypeError"),
    ],
)
def test_factories_that_make_nothing_are_one_line(factory: str, line: str, tmp_path, monkeypatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "factories.py").write_text(FACTORY)
    with pytest.raises(UsageError, match=line):
        FactorySkeleton(factory).make()


def test_missing_tensors_are_counted_and_named() -> None:
    skeleton = ModuleSkeleton(tiny.build("bert_classifier"))
    keys = set(skeleton.empty.state_dict())
    assert skeleton.names(keys) == {key: key for key in keys}
    bare = {key.removeprefix("bert.") for key in keys}
    assert skeleton.names(bare) == {key.removeprefix("bert."): key for key in keys}
    with pytest.raises(FormatError, match=r"lack 2 of the network's tensors \(classifier.bias, classifier.weight\)"):
        skeleton.names(keys - {"classifier.weight", "classifier.bias"})
    with pytest.raises(FormatError, match=r"and \d+ more\); check that the weights belong to this config"):
        skeleton.names([])
