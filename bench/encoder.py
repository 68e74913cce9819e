"""Rarefy beside its peers on a sentence encoder: MiniLM-L6 in float32, one text for all, on the planes of plane.py.

    python bench/encoder.py --peers PEERS        makes what is missing, measures, writes the report

Calibrated, where an entrant calibrates, on the same blocks of 32 tokens of STS-B's training sentences. Distortion:
1 - cosine of a sentence's embeddings before and after, over the sentences of STS-B's test pairs; score: Spearman's rank
correlation with people's scores of these pairs. PEERS and the peers' files are those of bench/plane.py; what a file
stands for is measured, dense in float32, by the same code for all.
"""

from __future__ import annotations

import argparse
import csv
import json
import lzma
import os
import sys
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
from transformers import AutoTokenizer

import rarefy
from gptq import Contestant, figures
from machine import machine, versions
from networks import CACHE, DATA, minilm, whole
from peers.dense import header, in_linear
from plane import PLANES, against, foreseen, make, opened, peer
from rarefy.evidence.pairs import pairs_of
from rarefy.evidence.sources import Text, read_text
from rarefy.measure.evaluate import Measured, measure
from rarefy.measure.evaluation import differences, scores
from rarefy.units import bpw

HERE = Path(__file__).resolve().parent
RATES = (1.25, 2, 2.5, 3, 3.5, 4, 5, 6)
LENGTH = 32


def entrants(peers: Path, work: Path) -> dict[str, Contestant]:
    """By name: Rarefy in the environment that runs this file, each peer in its own."""
    ours = (sys.executable, str(HERE / "peers" / "rarefy_recipe.py"))
    made = [
        Contestant(f"rarefy-{bits}", (*ours, "--bpw", str(bits), "--resume-in", str(work / f"rarefy-{bits}.part")))
        for bits in RATES
    ]
    made += [Contestant(f"hqq-{bits}", (*peer(peers, "hqq", "hqq_groups"), "--bits", str(bits))) for bits in (2, 3, 4)]
    made.append(Contestant("bitsandbytes-nf4", peer(peers, "bitsandbytes", "bitsandbytes_nf4")))
    made.append(Contestant("llmcompressor-4", (*peer(peers, "llmcompressor", "llmcompressor_gptq"), "--batch", "16")))
    return {contestant.name: contestant for contestant in made}


def calibration(work: Path, model: Path, samples: int) -> Path:
    """Token ids of STS-B's training sentences, int64 [samples, LENGTH], made once."""
    target = work / f"calibration-{samples}"
    if not target.exists():
        with lzma.open(DATA / "sts" / "sts-train.tsv.xz", "rt", encoding="utf-8") as f:
            rows = [row for row in csv.reader(f, delimiter="\t", quoting=csv.QUOTE_NONE) if len(row) > 6]
        text = Text(("\n".join(sentence for row in rows for sentence in row[5:7]),), "sts-train")
        tokens = text.tokens(AutoTokenizer.from_pretrained(model), LENGTH, samples)
        with whole(target) as part:
            np.save(part / "ids.npy", tokens.ids)
    return target / "ids.npy"


def report(model: Path, copies: dict[str, Path], found: dict[str, Measured]) -> dict[str, Any]:
    """Every point on both planes, and how the peers' stand against Rarefy's."""
    shapes = {k: np.prod(e["shape"]) for k, e in header(model / "model.safetensors").items() if e["dtype"] == "F32"}
    weights = {"whole": int(sum(shapes.values())), "linear": int(sum(n for k, n in shapes.items() if in_linear(k)))}
    points: dict[str, Any] = {}
    kl = {}
    before = found["whole"].original
    reference = None if before is None else scores(found["whole"].blocks, before).spearman
    if reference is None:
        raise ValueError("the original was not measured")
    for name, copy in copies.items():
        cost = json.loads((copy / "run.json").read_text())
        points[name] = {"cost": cost, **foreseen(copy)}
        for plane in PLANES:
            of_it, original = found[plane].networks[name], found[plane].original
            score = scores(found[plane].blocks, of_it)
            if score.kl is None or score.spearman is None or original is None or of_it.kl is None:
                raise ValueError(f"{name} was not measured")
            size = cost["bytes"]["file" if plane == "whole" else "linear"]
            points[name][plane] = {
                "bytes": size,
                "bpw": round(bpw(size, weights[plane]), 4),
                "kl": {"sts": figures(score.kl)},
                "spearman": figures(score.spearman),
                "spearman less the original's": figures(differences(of_it, original)["spearman"].interval()),
            }
            kl[name, plane, "sts"] = of_it.kl
    return {
        "network": "all-MiniLM-L6-v2, float32",
        "original": {"spearman": round(reference.value, 6)},
        "weights": weights,
        "machine": machine(),
        "versions": versions("transformers"),
        "points": points,
        "against": {plane: against(plane, points, kl, "sts") for plane in PLANES},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=["*"], help="entrants to make, as patterns; all unless told")
    parser.add_argument("--peers", type=Path, required=True, help="folder of the peers' environments")
    parser.add_argument("--cache", type=Path, default=CACHE, help="default: $RAREFY_CACHE, else cache/")
    parser.add_argument("--samples", type=int, default=512, help=f"calibration blocks of {LENGTH} tokens")
    parser.add_argument("--json", type=Path, default=HERE / "results" / "encoder.json")
    asked = parser.parse_args()
    model, work = minilm(asked.cache), asked.cache / "encoder"
    tokens = calibration(work, model, asked.samples)
    everyone = entrants(asked.peers, work)
    outs = {name: work / f"{name}-{asked.samples}" for name in everyone}
    chosen = [name for name in everyone if any(fnmatch(name, pattern) for pattern in asked.names)]
    failed = make([everyone[name] for name in chosen], model, tokens, outs)
    copies = {name: out for name, out in outs.items() if out.exists()}
    pairs = pairs_of(read_text([DATA / "sts" / "sts-test.tsv.xz"]), AutoTokenizer.from_pretrained(model))
    original = rarefy.open(model).module().float()
    found = {}
    for plane in PLANES:
        networks = {name: opened(copy, plane, original) for name, copy in copies.items()}
        found[plane] = measure(networks, pairs, original=original)
    results = report(model, copies, found) | {
        "calibration": f"sts-train {asked.samples} x {LENGTH}",
        "evaluation": {"sts": f"sts-test, {len(pairs.scores)} pairs"},
        "missing": [name for name in everyone if name not in copies],
    }
    asked.json.parent.mkdir(parents=True, exist_ok=True)
    asked.json.write_text(json.dumps(results, indent=1) + "\n")
    if failed:
        sys.exit(f"not made: {', '.join(failed)}")


if __name__ == "__main__":
    main()
