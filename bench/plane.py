"""Rarefy beside its peers on the plane of rate and distortion: one network, one text, one evaluator.

    python bench/plane.py --peers PEERS                 everything that is missing: hours, goes on where it was
    python bench/plane.py --peers PEERS make 'hqq-*'    stage by stage: make, measure, report; of some entrants

The network is SmolLM2-135M off its grid. Each peer quantizes it with its own tool in an environment of its own
(PEERS/hqq/bin/python, PEERS/llamacpp/bin/llama-quantize; bench/peers/ says the versions) and writes its own file,
whose bytes count; what the file stands for is then measured, dense in float32, by the same code for all. Two planes:

whole   the file, with whatever its maker does to the embedding
linear  its linear layers alone; embedding and norms are the original's, whose embedding has 8 bits a weight

Distortion: KL(original || copy) in nats a token; of Rarefy's whole files also on blocks from between the calibration's,
since theirs is the text that was predicted of. `report` takes what is there and says what is missing.
"""

from __future__ import annotations

import argparse
import itertools
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
from torch import nn

import rarefy
from gptq import LENGTH, Contestant, figures, overlap, refuse_overlap, token_file
from machine import machine, versions
from networks import CACHE, smollm2, text_file, whole
from peers.dense import header, in_linear
from rarefy.evidence.sources import Tokens
from rarefy.measure.evaluate import measure
from rarefy.measure.statistics import block_bootstrap
from rarefy.units import bpw

Array = NDArray[Any]

HERE = Path(__file__).resolve().parent
RATES = (2, 2.5, 3, 3.5, 4, 5, 6, 7)
GGUF_TYPES = ("Q2_K", "IQ2_M", "IQ3_XXS", "Q3_K_M", "Q4_K_M", "Q6_K")
TEXTS = {"wikipedia": "wikitext2-raw.test", "code": "exl3cal_code", "c4": "exl3cal_c4"}
SOURCE = "exl3cal_wiki"
BETWEEN = "between the calibration"
PLANES = ("whole", "linear")
BLOCKS, CHUNK = 64, 16
TOGETHER = 8


# ---- who enters


def entrants(peers: Path, work: Path) -> dict[str, Contestant]:
    """By name: Rarefy in the environment that runs this file, each peer in its own."""
    here = HERE / "peers"
    made = []
    for bits in RATES:
        resume = work / f"rarefy-{bits}.part"
        ours = (sys.executable, str(here / "rarefy_recipe.py"), "--bpw", str(bits), "--resume-in", str(resume))
        made.append(Contestant(f"rarefy-{bits}", ours))
    made += [Contestant(f"hqq-{bits}", (*peer(peers, "hqq", "hqq_groups"), "--bits", str(bits))) for bits in (2, 3, 4)]
    made.append(Contestant("bitsandbytes-nf4", peer(peers, "bitsandbytes", "bitsandbytes_nf4")))
    for bits in (2, 3, 4):
        made.append(Contestant(f"gptqmodel-{bits}", (*peer(peers, "gptqmodel", "gptqmodel_gptq"), "--bits", str(bits))))
    llmcompressor = (*peer(peers, "llmcompressor", "llmcompressor_gptq"), "--batch", "4", "--dtype", "bfloat16")
    made.append(Contestant("llmcompressor-4", llmcompressor))
    tools = ("--tools", str(peers / "llamacpp" / "bin"), "--source", str(peers / "llama.cpp"))
    shared = (sys.executable, str(here / "llamacpp_types.py"), *tools, "--prepared", str(work / "llamacpp"))
    made += [Contestant(f"llamacpp-{kind}", (*shared, "--type", kind)) for kind in GGUF_TYPES]
    return {contestant.name: contestant for contestant in made}


def peer(peers: Path, environment: str, script: str) -> tuple[str, ...]:
    return (str(peers / environment / "bin" / "python"), str(HERE / "peers" / f"{script}.py"))


def make(contestants: list[Contestant], model: Path, tokens: Path, outs: dict[str, Path]) -> list[str]:
    """Make what is missing, one after the other; returns the names of those that failed, which hold up no other."""
    failed = []
    for contestant in contestants:
        try:
            contestant.run(model, tokens, outs[contestant.name])
        except (OSError, subprocess.CalledProcessError) as error:
            print(f"{contestant.name} was not made: {error}", file=sys.stderr)
            failed.append(contestant.name)
    return failed


# ---- distortion


def texts_of(name: str, plane: str) -> tuple[str, ...]:
    """Texts that an entrant is measured on: Wikipedia's for all, and Rarefy's whole files on every one."""
    return (*TEXTS, BETWEEN) if plane == "whole" and name.startswith("rarefy") else ("wikipedia",)


def between(ids: Array) -> Array:
    """A chunk of the blocks between those that are calibrated on, which are every second; none that repeats those."""
    new = np.stack([block for block in ids[1::2] if not overlap(ids[::2], block[None])])
    return new[np.arange(CHUNK) * len(new) // CHUNK]


def opened(folder: Path, plane: str, original: nn.Module) -> nn.Module:
    """A network in float32; on the plane `linear`, what is no linear layer of its blocks is the original's."""
    network: nn.Module = rarefy.open(folder).module().float()
    if plane == "linear":
        theirs = dict(original.named_parameters())
        with torch.no_grad():
            for name, parameter in network.named_parameters():
                if not in_linear(name):
                    parameter.copy_(theirs[name])
    return network


def kept(work: Path, name: str, plane: str, text: str, start: int, blocks: Array) -> Path:
    """Where the figures of a chunk are kept, `kl` and `nll` in nats a token."""
    return work / "figures" / f"{name}-{plane}-{text}-{start}-{len(blocks)}" / "blocks.npz"


def measure_all(work: Path, model: Path, copies: dict[str, Path], texts: dict[str, Array]) -> None:
    """Measure what is missing, TOGETHER networks at a time beside the original, and keep every chunk of blocks.

    The first chunk of everything comes before the second of anything: stopped, there is a report on fewer blocks.
    """
    original = rarefy.open(model).module().float()
    for start in range(0, max(map(len, texts.values())), CHUNK):
        for text, plane in itertools.product(texts, PLANES):
            blocks = texts[text][start : start + CHUNK]
            files = {
                name: kept(work, name, plane, text, start, blocks) for name in copies if text in texts_of(name, plane)
            }
            missing = [name for name, file in files.items() if len(blocks) and not file.exists()]
            for at in range(0, len(missing), TOGETHER):
                together = missing[at : at + TOGETHER]
                networks = {name: opened(copies[name], plane, original) for name in together}
                print(f"{plane}, {text}, blocks from {start}: {', '.join(together)}", file=sys.stderr)
                found = measure(networks, Tokens(blocks, "", text), original=original)
                for name in together:
                    with whole(files[name].parent) as part:
                        at_name = found.networks[name]
                        np.savez(part / "blocks.npz", kl=at_name.kl, nll=at_name.nll, reference=found.original.nll)


def blocks_of(work: Path, name: str, plane: str, text: str, ids: Array) -> dict[str, Array] | None:
    """Figures of all blocks, None where some are missing."""
    files = [kept(work, name, plane, text, at, ids[at : at + CHUNK]) for at in range(0, len(ids), CHUNK)]
    if not all(file.exists() for file in files):
        return None
    parts = [np.load(file) for file in files]
    return {key: np.concatenate([part[key] for part in parts]) for key in ("kl", "nll", "reference")}


# ---- the report


def report(
    work: Path, model: Path, copies: dict[str, Path], asked: list[str], texts: dict[str, Array]
) -> dict[str, Any]:
    """Every point that is whole, and how the peers' stand against Rarefy's; names what is missing."""
    shapes = {name: np.prod(entry["shape"]) for name, entry in header(model / "model.safetensors").items()}
    weights = {"whole": int(sum(shapes.values())), "linear": int(sum(n for k, n in shapes.items() if in_linear(k)))}
    costs = {name: json.loads((copy / "run.json").read_text()) for name, copy in copies.items()}
    kl: dict[tuple[str, str, str], Array] = {}
    points: dict[str, Any] = {}
    missing = [name for name in asked if name not in copies]
    for name, cost in costs.items():
        points[name] = {"cost": cost, **foreseen(copies[name])}
        for plane in PLANES:
            size = cost["bytes"]["file" if plane == "whole" else "linear"]
            point: dict[str, Any] = {"bytes": size, "bpw": round(bpw(size, weights[plane]), 4), "kl": {}}
            for text in texts_of(name, plane):
                if text not in texts:
                    continue
                if (found := blocks_of(work, name, plane, text, texts[text])) is None:
                    missing.append(f"{name}, {plane}, {text}")
                    continue
                kl[name, plane, text] = found["kl"]
                point["kl"][text] = figures(block_bootstrap(found["kl"]))
            points[name][plane] = point
    return {
        "network": "SmolLM2-135M-Instruct off its grid",
        "weights": weights,
        "machine": machine(),
        "versions": versions("transformers"),
        "points": points,
        "against": {plane: against(plane, points, kl, "wikipedia") for plane in PLANES},
        "missing": missing,
    }


def foreseen(copy: Path) -> dict[str, Any]:
    """What Rarefy said of a file of its own before it made it; of a peer's nothing."""
    manifest = copy / "manifest.json"
    said = json.loads(manifest.read_text())["predicted"] if manifest.exists() else {}
    return {"predicted": {key: said[key] for key in ("bytes", "nats")}} if said else {}


def against(plane: str, points: dict[str, Any], kl: dict[tuple[str, str, str], Array], text: str) -> dict[str, Any]:
    """For each peer's point: the largest file of Rarefy's that is no larger, and its KL on a text over the peer's.

    kl: of each block, by (name, plane, text); the ratio's interval is paired.

    `holds`: the upper end of the interval of that ratio is at most one half.
    """
    measured = [name for name in points if (name, plane, text) in kl]
    size = {name: points[name][plane]["bytes"] for name in measured}
    ours = [name for name in measured if name.startswith("rarefy")]
    found: dict[str, Any] = {}
    for name in measured:
        if name in ours:
            continue
        fitting = [each for each in ours if size[each] <= size[name]]
        if not fitting:
            found[name] = {"rarefy": None, "holds": False}
            continue
        best = max(fitting, key=size.__getitem__)
        table = np.stack([kl[best, plane, text], kl[name, plane, text]], 1)
        ratio = block_bootstrap(table, lambda means: means[:, 0] / means[:, 1])
        found[name] = {"rarefy": best, "kl over the peer's": figures(ratio), "holds": ratio.high <= 0.5}
    return found


# ---- stage by stage


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage", nargs="?", default="all", choices=["all", "make", "measure", "report"])
    parser.add_argument("names", nargs="*", default=["*"], help="entrants, as patterns; all unless told")
    parser.add_argument("--peers", type=Path, required=True, help="folder of the peers' environments")
    parser.add_argument("--cache", type=Path, default=CACHE, help="default: $RAREFY_CACHE, else cache/")
    parser.add_argument("--samples", type=int, default=64, help="calibration blocks")
    parser.add_argument("--blocks", type=int, default=BLOCKS, help=f"evaluation blocks of each text, at most {BLOCKS}")
    parser.add_argument("--json", type=Path, default=HERE / "results" / "plane.json")
    asked = parser.parse_args()
    model, work = smollm2(asked.cache), asked.cache / "plane"
    calibration = token_file(work, "calibration", text_file(SOURCE), model, asked.samples)
    longer = token_file(work, "calibration", text_file(SOURCE), model, 2 * asked.samples)
    texts = {
        text: np.load(token_file(work, f"evaluation-{text}", text_file(file), model, BLOCKS))[: asked.blocks]
        for text, file in TEXTS.items()
    } | {BETWEEN: between(np.load(longer))}
    for ids in texts.values():
        refuse_overlap(np.load(calibration), ids)
    everyone = entrants(asked.peers, work)
    outs = {name: work / f"{name}-{asked.samples}" for name in everyone}
    chosen = [name for name in everyone if any(fnmatch(name, pattern) for pattern in asked.names)]
    failed: list[str] = []
    if asked.stage in ("all", "make"):
        failed = make([everyone[name] for name in chosen], model, calibration, outs)
    if asked.stage in ("all", "measure"):
        measure_all(work, model, {name: outs[name] for name in chosen if outs[name].exists()}, texts)
    if asked.stage in ("all", "report"):
        there = {name: out for name, out in outs.items() if out.exists()}
        results = report(work, model, there, list(everyone), texts)
        results |= {
            "calibration": f"{SOURCE} {asked.samples} x {LENGTH}",
            "evaluation": {text: f"{file} {asked.blocks} x {LENGTH}" for text, file in TEXTS.items()}
            | {BETWEEN: f"{SOURCE} {CHUNK} x {LENGTH}"},
        }
        asked.json.parent.mkdir(parents=True, exist_ok=True)
        asked.json.write_text(json.dumps(results, indent=1) + "\n")
    if failed:
        sys.exit(f"not made: {', '.join(failed)}")


if __name__ == "__main__":
    main()
