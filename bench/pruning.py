"""One-shot pruning of a language model: Wanda and SparseGPT beside llm-compressor's; prune + quantize in real bytes.

    python bench/pruning.py --peer-python PEER/bin/python       everything that is missing; goes on where it was
    python bench/pruning.py --only 'rarefy-*' --blocks 64       some entrants, more blocks

The network is SmolLM2-135M off its grid; the linear layers of its decoder blocks lose half their weights, anywhere or
two of every four inputs, from the same tokens, with damping 0.01 and masks for 128 columns at once. Then pruning before
a quantizer, and beside it quantize.entropy alone in a file of the same size. Distortion: KL(original || copy) in nats a
token, float32, every network measured by the same code.
PEER needs llmcompressor==0.14.0.1 (after torch==2.13.0, from the CPU index if there is one).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import torch
from numpy.typing import NDArray

import rarefy  # noqa: F401  artifacts open in transformers once it is imported
from gptq import HERE, LENGTH, Contestant, figures, kept_divergences, refuse_overlap, token_file
from machine import machine, versions
from networks import CACHE, smollm2, text_file
from rarefy.measure.statistics import block_bootstrap, paired_bootstrap

PATTERNS = {"half": "sparsity=0.5", "2:4": "n=2,m=4"}
EMBEDDING = "quantize.rtn:bits=8,group=64,include=*embed_tokens*"
RECIPES = {
    "sparsegpt-half, gptq-4": ("prune.sparsegpt:sparsity=0.5", "quantize.gptq:bits=4,group=64", EMBEDDING),
    "sparsegpt-half, entropy-2": ("prune.sparsegpt:sparsity=0.5", "quantize.entropy:bits=2"),
    "sparsegpt-quarter, entropy-3": ("prune.sparsegpt:sparsity=0.25", "quantize.entropy:bits=3"),
}
"""Pruned, then quantized; each is met by quantize.entropy alone at the size of its file."""


def ours(name: str, work: Path, recipe: tuple[str, ...], size: int | None = None) -> Contestant:
    words = [word for method in recipe for word in ("-m", method)] + (["--size", str(size)] if size else [])
    script, resume = HERE / "peers" / "rarefy_recipe.py", work / f"{folder(name)}.part"
    return Contestant(name, (sys.executable, str(script), *words, "--resume-in", str(resume)))


def pruners(work: Path, peer_python: str | None) -> list[Contestant]:
    """Rarefy in the environment that runs this file, llm-compressor in its own."""
    made = [
        ours(f"rarefy-{method}-{pattern}", work, (f"prune.{method}:{setting}",))
        for method in ("sparsegpt", "wanda", "magnitude")
        for pattern, setting in PATTERNS.items()
    ]
    theirs = (peer_python or "python", str(HERE / "peers" / "llmcompressor_sparsegpt.py"), "--batch", "4", "--pattern")
    patterns = {"half": "0:0", "2:4": "2:4"}
    return made + [Contestant(f"llmcompressor-sparsegpt-{p}", (*theirs, patterns[p])) for p in PATTERNS]


def folder(name: str) -> str:
    """A file name for a contestant."""
    return name.replace(", ", "+").replace(":", "of").replace(" ", "-")


class Run:
    """What is there of a run: contestants made (name -> folder), and names of those that are not."""

    def __init__(self, work: Path, model: Path, tokens: Path, only: list[str]) -> None:
        self.work, self.model, self.tokens, self.only = work, model, tokens, only
        self.samples = len(np.load(tokens))
        self.made: dict[str, Path] = {}
        self.missing: list[str] = []

    def add(self, contestant: Contestant) -> Path | None:
        """Make it, unless it is there or was not asked for; None where it cannot be had, which holds up no other."""
        out = self.work / f"{folder(contestant.name)}-{self.samples}"
        try:
            if any(fnmatch(contestant.name, pattern) for pattern in self.only):
                contestant.run(self.model, self.tokens, out)
        except (OSError, subprocess.CalledProcessError) as error:
            print(f"{contestant.name} was not made: {error}", file=sys.stderr)
        if not out.exists():
            self.missing.append(contestant.name)
            return None
        self.made[contestant.name] = out
        return out

    def add_all(self, peer_python: str | None) -> None:
        for contestant in pruners(self.work, peer_python):
            self.add(contestant)
        for name, recipe in RECIPES.items():
            out, alone = self.add(ours(name, self.work, recipe)), f"entropy at the size of {name}"
            if out is None:
                self.missing.append(alone)
                continue
            size = json.loads((out / "run.json").read_text())["bytes"]["file"]
            self.add(ours(alone, self.work, ("quantize.entropy",), size))


def pairs(names: list[str]) -> list[tuple[str, str]]:
    """Whose differences are told: SparseGPT's to the peer's and to Wanda's, what was pruned first to what was not."""
    others = ("llmcompressor-sparsegpt", "rarefy-wanda")
    wanted = [(f"rarefy-sparsegpt-{pattern}", f"{other}-{pattern}") for pattern in PATTERNS for other in others]
    wanted += [(name, f"entropy at the size of {name}") for name in RECIPES]
    return [(a, b) for a, b in wanted if a in names and b in names]


def report(run: Run, ids: NDArray[Any]) -> dict[str, Any]:
    """Points and paired differences of all that is there; what is not there is named."""
    names = list(run.made)
    kl = dict(zip(names, kept_divergences(run.work, run.model, list(run.made.values()), ids), strict=True))
    cost = {name: json.loads((out / "run.json").read_text()) for name, out in run.made.items()}
    return {
        "network": "SmolLM2-135M-Instruct off its grid",
        "calibration": f"exl3cal_wiki {run.samples} x {LENGTH}",
        "evaluation": f"wikitext2 test {len(ids)} x {LENGTH}",
        "machine": machine(),
        "versions": versions("transformers"),
        "contestants": {name: {"kl": figures(block_bootstrap(kl[name])), **cost[name]} for name in names},
        "paired differences": {f"{a} - {b}": figures(paired_bootstrap(kl[a], kl[b])) for a, b in pairs(names)},
        "missing": run.missing,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer-python", help="python of an environment with llmcompressor")
    parser.add_argument("--only", nargs="+", metavar="PATTERN", default=["*"], help="make these entrants alone")
    parser.add_argument("--cache", type=Path, default=CACHE, help="default: $RAREFY_CACHE, else cache/")
    parser.add_argument("--samples", type=int, default=32, help="calibration blocks of 512 tokens")
    parser.add_argument("--blocks", type=int, default=16, help="evaluation blocks of 512 tokens")
    parser.add_argument("--json", type=Path, default=HERE / "results" / "pruning.json")
    asked = parser.parse_args()
    torch.set_num_threads(os.cpu_count() or 1)
    cache = asked.cache.resolve()
    model, work = smollm2(cache), cache / "pruning"
    calibration = token_file(work, "calibration", text_file("exl3cal_wiki"), model, asked.samples)
    ids = np.load(token_file(work, "evaluation", text_file("wikitext2-raw.test"), model, asked.blocks))
    refuse_overlap(np.load(calibration), ids)
    run = Run(work, model, calibration, asked.only)
    run.add_all(asked.peer_python)
    results = report(run, ids)
    asked.json.parent.mkdir(parents=True, exist_ok=True)
    asked.json.write_text(json.dumps(results, indent=1) + "\n")
    for name, row in results["contestants"].items():
        kl = row["kl"]
        print(f"{name}: KL {kl['value']:.4f} [{kl['low']:.4f}, {kl['high']:.4f}]")


if __name__ == "__main__":
    main()
