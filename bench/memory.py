"""Networks larger than memory: the peak of compressing random Llamas of growing depth.

    python bench/memory.py [--depths 2 4] [--full] [--untied] [--out bench/results/memory.json]

Hidden 3072, feed-forward 8192, 24 heads of 128 over 8 of keys and values, vocabulary 32,000, bf16, tied embeddings
unless told: a Llama 3.2 of 3B but for its vocabulary. It is written a shard a block, none held whole. Each run is
`rarefy.compress` in a process of its own, on a few calibration blocks, so that second moments are singular: its
VmHWM, everything included. --full takes 8, 16 and 28 blocks (5.8 GB of weights), for a machine with time. What --out
has of the same network and tokens already is kept; the file is written after each run.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from machine import machine, versions
from rarefy.files.safetensors import Payload, write

HIDDEN, INNER, HEADS, KEY_HEADS, VOCABULARY = 3072, 8192, 24, 8, 32_000
DEPTHS, FULL = (2, 4), (8, 16, 28)
BAR = 2_500_000_000
"""Bytes that a run may have resident at most."""

RECIPES = {"quantize.gptq": "quantize.gptq:bits=4,group=64", "quantize.entropy": "quantize.entropy:bits=3"}


def config(depth: int, tied: bool) -> dict[str, Any]:
    """What transformers builds the network from."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": HIDDEN,
        "intermediate_size": INNER,
        "num_hidden_layers": depth,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KEY_HEADS,
        "vocab_size": VOCABULARY,
        "max_position_embeddings": 4096,
        "tie_word_embeddings": tied,
        "torch_dtype": "bfloat16",
    }


def block(i: int) -> dict[str, tuple[int, ...]]:
    """Tensors of a decoder block."""
    keys = KEY_HEADS * HIDDEN // HEADS
    shapes: dict[str, tuple[int, ...]] = {
        "self_attn.q_proj": (HIDDEN, HIDDEN),
        "self_attn.k_proj": (keys, HIDDEN),
        "self_attn.v_proj": (keys, HIDDEN),
        "self_attn.o_proj": (HIDDEN, HIDDEN),
        "mlp.gate_proj": (INNER, HIDDEN),
        "mlp.up_proj": (INNER, HIDDEN),
        "mlp.down_proj": (HIDDEN, INNER),
        "input_layernorm": (HIDDEN,),
        "post_attention_layernorm": (HIDDEN,),
    }
    return {f"model.layers.{i}.{name}.weight": shape for name, shape in shapes.items()}


def numbers(shape: tuple[int, ...], random: np.random.Generator) -> Iterator[bytes]:
    """A tensor in bf16, little by little: ones of a norm, else normal with variance 1 / in."""
    left = math.prod(shape)
    while left:
        count = min(left, 1 << 20)
        values = random.standard_normal(count, np.float32) / np.float32(math.sqrt(shape[-1]))
        values = values if len(shape) > 1 else np.ones(count, np.float32)
        yield (values.view(np.uint32) >> 16).astype("<u2").tobytes()
        left -= count


def make(folder: Path, depth: int, tied: bool) -> int:
    """Write a network of that depth; bytes of its weights."""
    folder.mkdir(parents=True)
    ends = {"model.embed_tokens.weight": (VOCABULARY, HIDDEN), "model.norm.weight": (HIDDEN,)}
    if not tied:
        ends["lm_head.weight"] = (VOCABULARY, HIDDEN)
    random, placed, total = np.random.default_rng(0), {}, 0
    shards = [ends, *map(block, range(depth))]
    for i, shapes in enumerate(shards):
        file = f"model-{i + 1:05d}-of-{len(shards):05d}.safetensors"
        sizes = {name: 2 * math.prod(shape) for name, shape in shapes.items()}
        tensors = (
            (name, Payload("BF16", shape, sizes[name], numbers(shape, random))) for name, shape in shapes.items()
        )
        write(folder / file, tensors, {"format": "pt"})
        placed |= dict.fromkeys(shapes, file)
        total += sum(sizes.values())
    index = {"metadata": {"total_size": total}, "weight_map": placed}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "config.json").write_text(json.dumps(config(depth, tied)))
    return total


def child(model: str, data: str, out: str, recipe: str) -> dict[str, Any]:
    """Compress in this process; what it took."""
    import rarefy
    from rarefy.report.console import stderr
    from rarefy.report.progress import Lines

    spent = time.process_time()
    result = rarefy.compress(model, out, [recipe], data=[data], progress=Lines(stderr()))
    return {
        "peak_bytes": result.peak_rss_bytes,
        "processor_seconds": round(time.process_time() - spent),
        "seconds": round(result.seconds),
        "weight_file_bytes": sum(file.stat().st_size for file in Path(out).glob("*.safetensors")),
    }


def fresh(*arguments: str | Path) -> dict[str, Any]:
    """`child` in a fresh process."""
    command = [sys.executable, __file__, "--child", *map(str, arguments)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def measure(missing: list[tuple[str, int]], tied: bool, tokens: list[int], work: Path) -> Iterator[dict[str, Any]]:
    """A run of each recipe and depth."""
    data = work / "tokens.npz"
    np.savez(data, x=np.random.default_rng(1).integers(0, VOCABULARY, tokens))
    for depth in sorted({depth for _, depth in missing}):
        size = make(work / "model", depth, tied)
        for recipe in (recipe for recipe, d in missing if d == depth):
            made = fresh(work / "model", data, work / "out", RECIPES[recipe])
            shutil.rmtree(work / "out")
            yield {"recipe": recipe, "depth": depth, "original_bytes": size, **made}
        shutil.rmtree(work / "model")


def summary(setting: dict[str, Any], runs: list[dict[str, Any]]) -> dict[str, Any]:
    """The report. grows: by recipe, the peak of the deepest network over that of the shallowest."""
    runs = sorted(runs, key=lambda run: (run["recipe"], run["depth"]))
    peaks = {recipe: [run["peak_bytes"] for run in runs if run["recipe"] == recipe] for recipe in RECIPES}
    return {
        **setting,
        "runs": runs,
        "grows": {recipe: round(found[-1] / found[0], 3) for recipe, found in peaks.items() if found},
        "bar": BAR,
        "met": all(max(found) <= BAR for found in peaks.values() if found),
        "machine": machine(),
        "versions": versions("transformers", "rarefy"),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--depths", type=int, nargs="+", default=list(DEPTHS))
    parser.add_argument("--full", action="store_true", help=f"{FULL} blocks")
    parser.add_argument("--untied", action="store_true", help="a head of its own")
    parser.add_argument("--recipes", nargs="+", choices=RECIPES, default=list(RECIPES))
    parser.add_argument("--tokens", type=int, nargs=2, default=[4, 512], help="calibration blocks, and tokens of each")
    parser.add_argument("--work", type=Path, help="folder for what is made (default: the system's temporary one)")
    parser.add_argument("--out", type=Path, help="JSON (default: to stdout)")
    parser.add_argument("--child", nargs=4, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.child:
        print(json.dumps(child(*asked.child)))
        return
    setting = {"network": config(0, not asked.untied), "tokens": asked.tokens}
    del setting["network"]["num_hidden_layers"]
    runs: list[dict[str, Any]] = []
    if asked.out and asked.out.exists():
        before = json.loads(asked.out.read_text())
        runs = before["runs"] if all(before[key] == value for key, value in setting.items()) else []
    known = {(run["recipe"], run["depth"]) for run in runs}
    depths = list(FULL) if asked.full else asked.depths
    missing = [(r, d) for r in asked.recipes for d in depths if (r, d) not in known]
    with tempfile.TemporaryDirectory(dir=asked.work) as folder:
        for run in measure(missing, not asked.untied, asked.tokens, Path(folder)):
            print(json.dumps(run), file=sys.stderr)
            runs.append(run)
            if asked.out:
                asked.out.write_text(json.dumps(summary(setting, runs), indent=1) + "\n")
    print(json.dumps(summary(setting, runs), indent=1))


if __name__ == "__main__":
    main()
