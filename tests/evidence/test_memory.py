"""Networks larger than memory: weights are read from their shards as a pass needs them, and let go of."""

import gc
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers

from rarefy import heap
from rarefy.evidence import Evidence, SecondMoment, Visited, survey, walk
from rarefy.measure import memory
from rarefy.model import Model
from rarefy.opening import open_model

NEEDS = frozenset({SecondMoment()})
INPUTS = np.arange(64).reshape(2, 32)


def sharded(folder: Path, depth: int) -> Path:
    """A Llama of 2 MB a block and shard, on disk."""
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=64,
        hidden_size=256,
        intermediate_size=1024,
        num_hidden_layers=depth,
        num_attention_heads=4,
        num_key_value_heads=4,
        tie_word_embeddings=True,
    )
    net = transformers.LlamaForCausalLM(config).to(torch.bfloat16)
    net.save_pretrained(folder / f"{depth}", max_shard_size="2.2MB")
    assert len(list((folder / f"{depth}").glob("*.safetensors"))) >= depth
    return folder / f"{depth}"


def mapped(folder: Path) -> bool:
    return str(folder) in Path("/proc/self/maps").read_text()


def run(model: Model, which: str, visit) -> None:
    if which == "walk":
        walk(model, Evidence(INPUTS), NEEDS, visit, "walk")
    else:
        survey(model, Evidence(INPUTS), visit, "survey", seed=0)


@pytest.mark.parametrize("which", ["walk", "survey"])
def test_what_is_held_does_not_grow_with_depth(tmp_path: Path, which: str) -> None:
    peaks = []
    for depth in (3, 12):
        folder = sharded(tmp_path, depth)
        gc.collect()
        heap.release()
        seen = []

        def visit(sites, before, folder=folder, seen=seen):
            assert not mapped(folder)
            seen.append(memory.resident())
            return Visited({})

        tracemalloc.start()  # weights pass through NumPy on their way to torch
        try:
            run(open_model(folder), which, visit)
            peaks.append(tracemalloc.get_traced_memory()[1])
        finally:
            tracemalloc.stop()
    block = 4 * (4 * 256**2 + 3 * 256 * 1024)
    assert block < peaks[0] < 3 * block
    assert peaks[1] < peaks[0] + block / 4
    # Nine more blocks are 38 MB in float32; what was resident stays within two of them.
    assert max(seen) - seen[0] < 2 * block


def test_a_mapped_file_would_show(tmp_path: Path) -> None:
    file = tmp_path / "x"
    file.write_bytes(bytes(4096))
    held = np.memmap(file)
    assert mapped(tmp_path) and held.size
