"""Methods through `compress`: the same bytes again, artifacts compressed further, broken networks refused."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from safetensors.torch import save_file

from rarefy.codes import Grid
from rarefy.errors import RarefyError
from rarefy.opening import open_model
from rarefy.plan.compress import compress

RECIPE = ["prune.magnitude:sparsity=0.3", "quantize.gptq:bits=4,group=16"]


def bytes_of(folder: Path) -> dict[str, str]:
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def data(name: str, tmp_path: Path) -> list[Path]:
    np.savez(tmp_path / "data.npz", x=tiny.inputs(name))
    return [tmp_path / "data.npz"]


@pytest.mark.parametrize("name", ["llama_tied", "bert_classifier", "resnet"])
def test_the_same_again_is_the_same_bytes(name: str, tmp_path) -> None:
    tiny.build(name).save_pretrained(tmp_path / "net")
    given = data(name, tmp_path)
    for out in ("one", "two"):
        result = compress(tmp_path / "net", tmp_path / out, RECIPE, data=given, seed=1, threads=1)
        assert result.bpw < 32 and [step["method"] for step in result.steps] == ["prune.magnitude", "quantize.gptq"]
    assert bytes_of(tmp_path / "one") == bytes_of(tmp_path / "two")
    made = open_model(tmp_path / "one")
    assert sum(isinstance(code, Grid) for code in made.codes.values()) >= 8


def test_an_artifact_is_compressed_further(tmp_path) -> None:
    tiny.build("llama").save_pretrained(tmp_path / "net")
    given = data("llama", tmp_path)
    first = compress(tmp_path / "net", tmp_path / "one", ["quantize.gptq:bits=4,group=16"], data=given, threads=1)
    second = compress(tmp_path / "one", tmp_path / "two", ["prune.magnitude:n=2,m=4"], threads=1)
    third = compress(tmp_path / "two", tmp_path / "three", ["quantize.rtn:bits=3,group=16"], threads=1)
    assert first.bytes > second.bytes > third.bytes
    one, two, three = (open_model(tmp_path / name) for name in ("one", "two", "three"))
    methods = ["quantize.gptq", "prune.magnitude", "quantize.rtn"]
    assert [[step.method for step in model.history] for model in (one, two, three)] == [methods[:k] for k in (1, 2, 3)]
    assert three.history[1] == two.history[1] and two.history[0] == one.history[0]
    for key, code in two.codes.items():
        before, after, last = (m.codes[key].decode() for m in (one, two, three))
        if isinstance(code, Grid):
            assert np.array_equal(after[after != 0], before[after != 0])
            assert not last[after == 0].any() and (after == 0).mean() >= 0.5
    assert two.sections["original"] == one.sections["original"] and two.sections["calibration"]


def test_what_no_method_understands_is_in_the_result(tmp_path) -> None:
    net = tiny.build("strange")
    save_file({key: value.contiguous() for key, value in net.state_dict().items()}, tmp_path / "w.safetensors")
    source = f"tiny:strange@{tmp_path / 'w.safetensors'}"
    left = compress(source, tmp_path / "out", ["quantize.gptq:bits=8"], data=data("chain", tmp_path), threads=1).left
    assert left["grouped.weight"] == "a grouped convolution has no single second moment"
    assert left["unused.weight"] == "calibration never reached it"
    assert left["mix"] == "a parameter of Strange, which is not understood"
    assert left["lstm.weight_ih_l0"] == left["lstm.weight_hh_l0"] == "a parameter of LSTM, which is not understood"
    assert "head.weight" not in left and len(left) == 7
    module = open_model(f"tiny:strange@{tmp_path / 'out'}").module()
    assert torch.equal(module.mix, net.mix) and torch.equal(module.grouped.weight, net.grouped.weight)


@pytest.mark.parametrize("method", ["quantize.rtn", "quantize.gptq", "prune.magnitude"])
@pytest.mark.parametrize("value", [float("nan"), float("-inf")])
def test_broken_weights_are_refused_and_nothing_is_left(method: str, value: float, tmp_path) -> None:
    net = tiny.build("llama")
    net.model.layers[1].self_attn.v_proj.weight.data[3, 3] = value
    net.save_pretrained(tmp_path / "net")
    given = data("llama", tmp_path)
    with pytest.raises(RarefyError, match=r"layers.1.self_attn.v_proj.weight has infinite or NaN weights; repair") as e:
        compress(tmp_path / "net", tmp_path / "out", [method], data=given, threads=1)
    assert "\n" not in str(e.value) and not (tmp_path / "out").exists()


def test_broken_weights_that_stay_dense_pass_bit_for_bit(tmp_path) -> None:
    net = tiny.build("llama")
    net.model.layers[1].self_attn.v_proj.weight.data[3, 3] = float("nan")
    net.save_pretrained(tmp_path / "net")
    compress(tmp_path / "net", tmp_path / "out", ["quantize.rtn"], exclude=["*.v_proj.*"], threads=1)
    made = open_model(tmp_path / "out").codes["model.layers.1.self_attn.v_proj.weight"]
    np.testing.assert_array_equal(made.decode(), net.model.layers[1].self_attn.v_proj.weight.detach())
    with pytest.raises(RarefyError, match=r"what flows into model.layers.1.self_attn.o_proj.weight is not finite"):
        compress(
            tmp_path / "net",
            tmp_path / "other",
            ["quantize.gptq"],
            data=data("llama", tmp_path),
            exclude=["*.v_proj.*"],
            threads=1,
        )
