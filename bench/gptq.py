"""GPTQ by Rarefy and by llm-compressor: one network, one grid, one text, distortion and cost side by side.

    python bench/gptq.py --peer-python PEER/bin/python

The network is SmolLM2-135M off its grid; both put the linear layers of its decoder blocks on 4-bit affine codes in
groups of 64 (4.31 bits a weight with 16-bit scales), columns in their own order, damping 0.01, from the same tokens.
Each contestant runs in a process of its own and leaves a dense float32 copy in the cache, kept once it is whole, so
a second call goes on where the first stopped. Distortion: KL(original || copy) in nats per token, float32.
PEER needs llmcompressor==0.14.0.1 (after torch==2.13.0, from the CPU index if there is one).
"""

from __future__ import annotations

import argparse
import itertools
import json
import lzma
import os
import subprocess
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from machine import machine, versions
from networks import CACHE, smollm2, text_file, whole
from rarefy.measure.statistics import block_bootstrap, paired_bootstrap
from rarefy.units import Interval

Array = NDArray[Any]

HERE = Path(__file__).resolve().parent
LENGTH = 512
NGRAM = 24
CHUNK = 16


@dataclass(frozen=True)
class Contestant:
    """A command that is called with MODEL TOKENS OUT and writes OUT/model.safetensors and OUT/run.json."""

    name: str
    command: tuple[str, ...]

    def run(self, model: Path, tokens: Path, out: Path) -> Path:
        """Run it unless `out` is there already; its messages go to stderr."""
        if not out.exists():
            with whole(out) as work:
                print(f"running {self.name}", file=sys.stderr)
                subprocess.run([*self.command, model, tokens, work], check=True, stdout=sys.stderr)
        return out


def entrants(peer_python: str | None) -> list[Contestant]:
    """Rarefy in the environment that runs this file, llm-compressor in its own."""
    ours = (sys.executable, str(HERE / "peers" / "rarefy_gptq.py"))
    made = [Contestant(f"rarefy-{dtype}", (*ours, "--dtype", dtype)) for dtype in ("float32", "bfloat16")]
    made.append(Contestant("rarefy-float32-order", (*ours, "--act-order")))
    if peer_python:
        theirs = (peer_python, str(HERE / "peers" / "llmcompressor_gptq.py"), "--batch", "4")
        name = "llmcompressor-"
        made += [Contestant(name + dtype, (*theirs, "--dtype", dtype)) for dtype in ("float32", "bfloat16")]
        made.append(Contestant(name + "float32-static", (*theirs, "--actorder", "static")))
    return made


# ---- text


def blocks(path: Path, model: Path, count: int) -> Array:
    """`count` blocks of token ids, int64 [count, 512], spread evenly over a text. Raises ValueError if it is short."""
    from transformers import AutoTokenizer

    with lzma.open(path, "rt", encoding="utf-8") as f:
        ids = np.array(AutoTokenizer.from_pretrained(model)(f.read())["input_ids"], np.int64)
    there = len(ids) // LENGTH
    if there < count:
        raise ValueError(f"{path.name} has {there} blocks of {LENGTH} tokens, {count} were asked for")
    return ids[: there * LENGTH].reshape(there, LENGTH)[np.arange(count) * there // count]


def token_file(cache: Path, name: str, path: Path, model: Path, count: int) -> Path:
    """`blocks` as cache/name-count/ids.npy, made once."""
    target = cache / f"{name}-{count}"
    if not target.exists():
        with whole(target) as work:
            np.save(work / "ids.npy", blocks(path, model, count))
    return target / "ids.npy"


def refuse_overlap(calibration: Array, evaluation: Array) -> None:
    """Raises ValueError if any 24 tokens in a row are in both."""
    if shared := overlap(calibration, evaluation):
        raise ValueError(f"calibration and evaluation text share {shared} runs of {NGRAM} tokens")


def overlap(one: Array, other: Array) -> int:
    """How many runs of 24 tokens are in both."""

    def grams(ids: Array) -> set[bytes]:
        rows = np.lib.stride_tricks.sliding_window_view(ids, NGRAM, axis=1)
        return {gram.tobytes() for row in rows for gram in row}

    return len(grams(one) & grams(other))


# ---- distortion


@torch.inference_mode()
def divergences(original: Path, copies: list[Path], ids: Array, batch: int = 2) -> Array:
    """KL(original || copy) in nats per token, the mean of each block: float64 [copies, blocks]."""
    from transformers import AutoModelForCausalLM

    load = partial(AutoModelForCausalLM.from_pretrained, dtype=torch.float32)
    reference, others = load(original), [load(copy) for copy in copies]
    kl = np.zeros((len(copies), len(ids)))
    for start in range(0, len(ids), batch):
        tokens = torch.from_numpy(ids[start : start + batch])
        log_p = reference(tokens).logits.log_softmax(-1)
        p = log_p.exp()
        for row, other in zip(kl, others, strict=True):
            log_q = other(tokens).logits.log_softmax(-1)
            row[start : start + batch] = log_p.sub(log_q).mul_(p).sum(-1).double().mean(1).numpy()
        print(f"evaluated {start + len(tokens)}/{len(ids)} blocks", file=sys.stderr)
    return kl


def kept_divergences(cache: Path, original: Path, copies: list[Path], ids: Array) -> list[Array]:
    """`divergences`, kept every CHUNK blocks: evaluation goes on where it was stopped."""
    found: list[list[Array]] = [[] for _ in copies]
    for start in range(0, len(ids), CHUNK):
        files = [cache / f"kl-{copy.name}-{len(ids)}-{start}" / "blocks.npy" for copy in copies]
        missing = [i for i, file in enumerate(files) if not file.exists()]
        rows = divergences(original, [copies[i] for i in missing], ids[start : start + CHUNK]) if missing else ()
        for i, row in zip(missing, rows, strict=True):
            with whole(files[i].parent) as work:
                np.save(work / "blocks.npy", row)
        for parts, file in zip(found, files, strict=True):
            parts.append(np.load(file))
    return [np.concatenate(parts) for parts in found]


def figures(found: Interval) -> dict[str, float]:
    """An interval as JSON, to the digits that matter."""
    return {name: round(getattr(found, name), 6) for name in ("value", "low", "high")}


# ---- the comparison


def compare(contestants: list[Contestant], cache: Path, samples: int, count: int) -> dict[str, Any]:
    """Run what is missing, evaluate what is missing; every pair gets the interval of its paired difference."""
    model, work = smollm2(cache), cache / "gptq"
    calibration = token_file(work, "calibration", text_file("exl3cal_wiki"), model, samples)
    ids = np.load(token_file(work, "evaluation", text_file("wikitext2-raw.test"), model, count))
    refuse_overlap(np.load(calibration), ids)
    copies = [c.run(model, calibration, work / f"{c.name}-{samples}") for c in contestants]
    names = [c.name for c in contestants]
    kl = dict(zip(names, kept_divergences(work, model, copies, ids), strict=True))
    costs = [json.loads((copy / "run.json").read_text()) for copy in copies]
    return {
        "network": "SmolLM2-135M-Instruct off its grid",
        "grid": "4 bits, affine, groups of 64; damping 0.01",
        "calibration": f"exl3cal_wiki {samples} x {LENGTH}",
        "evaluation": f"wikitext2 test {count} x {LENGTH}",
        "machine": machine(),
        "versions": versions("transformers"),
        "contestants": {
            name: {"kl": figures(block_bootstrap(kl[name])), **cost} for name, cost in zip(names, costs, strict=True)
        },
        "paired differences": {
            f"{a} - {b}": figures(paired_bootstrap(kl[a], kl[b])) for a, b in itertools.combinations(names, 2)
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--peer-python", help="python of an environment with llmcompressor")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these contestants alone")
    parser.add_argument("--cache", type=Path, default=CACHE)
    parser.add_argument("--samples", type=int, default=128, help="calibration blocks of 512 tokens")
    parser.add_argument("--blocks", type=int, default=64, help="evaluation blocks of 512 tokens")
    parser.add_argument("--out", type=Path, default=HERE / "results" / "gptq.json")
    asked = parser.parse_args()
    torch.set_num_threads(os.cpu_count() or 1)
    contestants = entrants(asked.peer_python)
    if unknown := set(asked.only or ()) - {c.name for c in contestants}:
        parser.error(f"no contestant {min(unknown)}; there are {', '.join(c.name for c in contestants)}")
    contestants = [c for c in contestants if not asked.only or c.name in asked.only]
    results = compare(contestants, asked.cache.resolve(), asked.samples, asked.blocks)
    asked.out.parent.mkdir(parents=True, exist_ok=True)
    asked.out.write_text(json.dumps(results, indent=1) + "\n")
    for name, row in results["contestants"].items():
        kl = row["kl"]
        cost = f"{row['gptq_wall_s']:.0f} s wall, {row['gptq_processor_s']:.0f} s processor"
        print(f"{name}: KL {kl['value']:.4f} [{kl['low']:.4f}, {kl['high']:.4f}], {cost}")


if __name__ == "__main__":
    main()
