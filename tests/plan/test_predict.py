"""What a run will take, against what it takes."""

from __future__ import annotations

import json
import subprocess
import sys
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from runs import make_llama, run

import rarefy
from rarefy.errors import UsageError
from rarefy.families import Segments
from rarefy.families.values import model_inputs
from rarefy.files.journal import Kept, WorkFolder
from rarefy.model import shape_of
from rarefy.plan.predict import model_bytes, predict
from rarefy.plan.trace import trace
from rarefy.recipe import Recipe

MEASURE = """
import json, sys
from pathlib import Path
sys.path.insert(0, {here!r})
import numpy as np, torch, transformers
from rarefy.methods.quantize import gptq
from rarefy.measure import memory
from rarefy.plan import predict
from runs import run
found = {{}}
def check(needs, *_):
    found.update(predicted=needs.memory, before=memory.resident(), disk=needs.disk)
predict.check = check
run({model!r}, Path({out!r}), Path({data!r}), ["quantize.gptq:bits=4,group=64"], threads=2)
print(json.dumps({{**found, "peak": memory.peak()}}))
"""


def needs(model: Path, recipe: str, inputs: Any = None, dtype: str = "float32") -> Any:
    return predict(rarefy.open(model), Recipe.from_arguments([recipe]), inputs, dtype)


@pytest.mark.parametrize("shape", ["wide", "many tokens known"])
def test_memory_is_predicted_within_a_third(shape: str, tmp_path: Path) -> None:
    sizes = {"hidden_size": 512, "intermediate_size": 2048} if shape == "wide" else {"vocab_size": 30000}
    model = make_llama(tmp_path / "llama", max_position_embeddings=256, **sizes)
    np.savez(tmp_path / "ids.npz", x=np.random.default_rng(0).integers(0, 64, (16, 256)))
    code = MEASURE.format(
        here=str(Path(__file__).parent), model=str(model), out=str(tmp_path / "out"), data=str(tmp_path / "ids.npz")
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    measured = found["peak"] - found["before"]
    assert 0.67 < found["predicted"] / measured < 1.5, (found, measured)


def test_predictions_follow_the_shapes(llama: Path) -> None:
    few, many = np.zeros((4, 16), np.int64), np.zeros((4, 64), np.int64)
    gptq, rtn = "quantize.gptq:group=16", "quantize.rtn:group=16"
    assert needs(llama, gptq, few).memory < needs(llama, gptq, many).memory
    assert needs(llama, gptq, many, "bfloat16").memory < needs(llama, gptq, many).memory
    assert needs(llama, rtn).memory < needs(llama, gptq, many).memory
    assert needs(llama, gptq, few).disk < needs(llama, gptq, many).disk
    assert needs(llama, rtn).reads == model_bytes(rarefy.open(llama))
    assert needs(llama, rtn).writes < needs(llama, rtn).reads
    # What nothing codes is written as it was.
    assert needs(llama, "quantize.rtn:include=[none]").writes == needs(llama, rtn).reads


def test_depth_takes_disk_but_no_memory(tmp_path: Path) -> None:
    inputs = np.zeros((4, 16), np.int64)
    shallow, deep = (
        needs(make_llama(tmp_path / str(layers), layers), "quantize.gptq:group=16", inputs) for layers in (2, 8)
    )
    assert deep.memory <= shallow.memory + 100_000
    assert deep.disk > shallow.disk


def test_what_flows_through_two_stacks_is_counted_with_the_running_value() -> None:
    """The encoder's states and T5's biases are on disk; masks are held for every micro-batch."""
    model = tiny.opened("t5")
    segments, batch = Segments(model), torch.from_numpy(tiny.inputs("t5"))
    given = model_inputs(segments.module, batch)
    with torch.no_grad():
        tensors = model.tensors(segments.tensor_names(len(segments) - 1))
        segments.probe(tensors, given)
        value, calls = segments.head(tensors, given)
        values = [value]
        for i in range(1, len(segments) - 1):
            values.append(segments.run(i, model.tensors(segments.tensor_names(i)), given, values[-1], calls))
    shapes = {name: (key, shape_of(model.codes, key)) for name, key in model.keys.items()}
    traced = trace(segments.module, shapes, segments.layout, [], batch, torch.float32)
    blocks = [i for i, block in enumerate(segments.layout) if block is not None]
    assert [traced[i].value for i in blocks] == [values[i - 1].nbytes for i in blocks]
    beside = [{id(arg): arg for arg in call.args if isinstance(arg, torch.Tensor)}.values() for call in calls]
    assert [traced[i].beside for i in blocks] == [sum(tensor.nbytes for tensor in held) for held in beside]


def test_codes_of_finished_segments_leave_memory(ids: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save = WorkFolder.save
    made: list[list[weakref.ref[Any]]] = []
    alive: list[int] = []

    def watched(work: WorkFolder, step: str, codes: Any, *rest: Any) -> Kept:
        alive.append(sum(ref() is not None for refs in made for ref in refs))
        made.append([weakref.ref(code) for code in codes.values()])
        return save(work, step, codes, *rest)

    monkeypatch.setattr(WorkFolder, "save", watched)
    run(make_llama(tmp_path / "llama", 4), tmp_path / "out", ids)
    assert [len(refs) for refs in made] == [0, 7, 7, 7, 7, 1]
    assert alive == [0] * 6


def test_inputs_that_do_not_fit_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "small_network.py").write_text("from torch import nn\ndef make():\n    return nn.Linear(8, 4)\n")
    monkeypatch.chdir(tmp_path)
    for name, x in (("wide", np.zeros((4, 9), np.float32)), ("ids", np.zeros((4, 8), np.int64))):
        np.savez(tmp_path / f"{name}.npz", x=x)
        with pytest.raises(UsageError, match=f"does not take examples of {x.shape[1]}") as error:
            run("small_network:make", tmp_path / "out", tmp_path / f"{name}.npz", ["quantize.gptq:group=4"])
        assert "\n" not in str(error.value)
    assert not (tmp_path / "out.work").exists()
    assert capfd.readouterr().err == ""
