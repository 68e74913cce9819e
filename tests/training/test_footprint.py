"""What training takes: counted from shapes, against what autograd keeps when the network runs."""

import pytest
import tiny
import torch

from rarefy.methods.quantize.entropy import Entropy
from rarefy.methods.recover.scales import Scales
from rarefy.training import footprint
from rarefy.training.student import Student


@pytest.mark.parametrize("name", ["llama_tied", "bert", "llama"])
def test_what_a_forward_pass_keeps(name: str) -> None:
    model = Entropy(bits=4.0).apply(tiny.opened(name), tiny.evidence(name))
    ids = torch.from_numpy(tiny.inputs(name, 40))
    student, storages, alive = Student(model, "cpu", torch.float32), {}, []
    for leaf in student.leaves().values():
        leaf.requires_grad_()
    fixed = {t.untyped_storage()._cdata for t in (*student._fixed.values(), *student.module.buffers())}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        alive.append(tensor)
        storages[tensor.untyped_storage()._cdata] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        student(ids)
    measured = sum(size for key, size in storages.items() if key not in fixed)
    counted, outputs = footprint._kept(model, ids, torch.float32, "cpu")
    assert 0.7 * measured < counted < 1.4 * measured
    assert outputs == 4 * (40 * 12 * tiny.VOCABULARY if name != "bert" else 40 * 32)


def test_a_half_of_the_bytes_in_bfloat16_and_more_for_more_tokens() -> None:
    model, short = tiny.opened("llama_tied"), torch.zeros(1, 16, dtype=torch.long)
    few = footprint.footprint(model, short, torch.float32, "cpu")
    assert footprint.footprint(model, short.expand(32, -1), torch.float32, "cpu") > few > footprint.BESIDE
    assert footprint.footprint(model, short, torch.bfloat16, "cpu") < few
    assert Scales().memory(model, tiny.evidence("llama_tied")) > few
