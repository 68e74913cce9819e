"""What each part of quantize.entropy is worth: one network, one size of the whole file, a part changed at a time.

    python bench/ablation.py minilm              all-MiniLM-L6-v2, 3 and 2 bits: some 15 minutes
    python bench/ablation.py smollm2 [ROW ..]    SmolLM2-135M off its grid, 3 bits: some 5 minutes a row

Distortion in nats: KL a token of WikiText-2 for the language model, calibrated on other Wikipedia text; 1 - cosine over
the sentences of STS-B's test pairs for the encoder, calibrated on training sentences. Rows that are in the cache are
kept. "plain points" puts the integers themselves in place of the centroids of what rounds to them; "no drift" gathers
statistics of the original's inputs instead of what the compressed layers before make of them; of a sentence encoder,
whose curvature stays the survey's because its laws are of whole examples, there is no such row.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np

from encoder import LENGTH as WORDS
from encoder import calibration
from gptq import LENGTH, refuse_overlap, token_file
from machine import machine, versions
from networks import CACHE, DATA, minilm, smollm2, text_file, whole

HERE = Path(__file__).resolve().parent
BLOCKS = 32
"""Evaluation blocks of 512 tokens for the language model."""


@dataclass(frozen=True)
class Row:
    """A run. share: of the calibration blocks. after: methods behind quantize.entropy. plain: no shrunken points.
    drift: statistics are of inputs as the layers before, compressed, make them."""

    share: float = 1.0
    settings: str = ""
    after: tuple[str, ...] = ()
    plain: bool = False
    drift: bool = True


ROWS = {
    "as it is": Row(),
    "a quarter of the calibration": Row(share=1 / 4),
    "half of the calibration": Row(share=1 / 2),
    "twice the calibration": Row(share=2),
    "plain points": Row(plain=True),
    "no drift": Row(drift=False),
    "damping 0.05": Row(settings=":damping=0.05"),
    "recover.scales": Row(after=("recover.scales",)),
}
RATES = {"minilm": (3, 2), "smollm2": (3,)}
SAMPLES = {"minilm": 512, "smollm2": 32}
LEFT_OUT = {"minilm": {"no drift"}, "smollm2": set[str]()}


def tokens(network: str, work: Path, model: Path, share: float) -> Path:
    count = int(SAMPLES[network] * share)
    if network == "minilm":
        return calibration(work, model, count)
    return token_file(work, "calibration", text_file("exl3cal_wiki"), model, count)


def child(model: str, data: str, out: str, name: str, bits: str) -> dict[str, Any]:
    """Compress in this process; what it took."""
    import rarefy
    from rarefy.evidence.passes import Passes
    from rarefy.evidence.walk import _Walk
    from rarefy.methods.quantize import entropy

    def plain(w: np.ndarray, *_: object) -> np.ndarray:
        return np.repeat(entropy.PLAIN, len(w), 1)

    def feed_as_it_was(walk: _Walk, i: int, tensors: object, *advance: Any) -> None:
        Passes._feed(walk, i, walk._tensors(i, walk.model.codes), *advance)

    row = ROWS[name]
    recipe = [f"quantize.entropy{row.settings}", *row.after]
    with contextlib.ExitStack() as changed:
        if row.plain:
            changed.enter_context(mock.patch.object(entropy, "_points", plain))
        if not row.drift:
            changed.enter_context(mock.patch.object(_Walk, "_feed", feed_as_it_was))
        result = rarefy.compress(model, out, recipe, bpw=float(bits), data=[data], blocks=len(np.load(data)["x"]))
    return {"processor_s": round(result.cpu_seconds), "peak_bytes": result.peak_rss_bytes, "bpw": round(result.bpw, 4)}


def made(network: str, name: str, bits: float, model: Path, work: Path) -> Path:
    """The artifact of a row, from the cache or made in a process of its own; run.json beside it."""
    out = work / f"{name.replace(' ', '-')}-{bits}"
    if not out.exists():
        data = tokens(network, work, model, ROWS[name].share)
        with whole(out) as part:
            np.savez(part / "calibration.npz", x=np.load(data))
            words = [str(model), str(part / "calibration.npz"), str(part / "artifact"), name, str(bits)]
            done = subprocess.run([sys.executable, __file__, "--child", *words], stdout=subprocess.PIPE, check=True)
            (part / "run.json").write_bytes(done.stdout.splitlines()[-1])
    return out


def distortion(network: str, out: Path, model: Path, work: Path) -> dict[str, Any]:
    """What `rarefy evaluate --json` says of it, kept beside it."""
    kept = out / "evaluation.json"
    if not kept.exists():
        if network == "minilm":
            data, more = DATA / "sts" / "sts-test.tsv.xz", []
        else:
            file = token_file(work, "evaluation", text_file("wikitext2-raw.test"), model, BLOCKS)
            refuse_overlap(np.load(tokens(network, work, model, 2)), np.load(file))
            data, more = out / "evaluation.npz", ["--blocks", str(BLOCKS), "--length", str(LENGTH)]
            np.savez(data, x=np.load(file))
        command = [sys.executable, "-m", "rarefy.cli", "evaluate", out / "artifact", "--against", model, "--json"]
        done = subprocess.run([*command, "--data", data, *more], stdout=subprocess.PIPE, check=True)
        kept.write_bytes(done.stdout)
    return dict(json.loads(kept.read_text()))


def main() -> None:
    if sys.argv[1:2] == ["--child"]:
        print(json.dumps(child(*sys.argv[2:])))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("network", choices=list(RATES))
    parser.add_argument("rows", nargs="*", metavar="ROW", help="of these rows; all unless told")
    parser.add_argument("--cache", type=Path, default=CACHE, help="default: $RAREFY_CACHE, else cache/")
    parser.add_argument("--json", type=Path, default=HERE / "results" / "ablation.json")
    asked = parser.parse_args()
    rows = [name for name in ROWS if name not in LEFT_OUT[asked.network]]
    if unknown := set(asked.rows) - set(rows):
        parser.error(f"no row {min(unknown)!r}; there are {', '.join(rows)}")
    network, model = asked.network, {"minilm": minilm, "smollm2": smollm2}[asked.network](asked.cache)
    work = asked.cache / "ablation" / network
    found: dict[str, Any] = {}
    for bits in RATES[network]:
        for name in rows:
            if name in (asked.rows or rows) or (work / f"{name.replace(' ', '-')}-{bits}").exists():
                out = made(network, name, bits, model, work)
                told = distortion(network, out, model, work)
                scores = {k: {s: round(v, 6) for s, v in told[k].items()} for k in ("kl", "spearman") if k in told}
                found.setdefault(f"{bits} bits", {})[name] = {**scores, **json.loads((out / "run.json").read_text())}
                shutil.rmtree(out / "artifact", ignore_errors=True)
    results = json.loads(asked.json.read_text()) if asked.json.exists() else {}
    length = WORDS if network == "minilm" else LENGTH
    results[network] = {
        "calibration": f"{SAMPLES[network]} x {length}",
        "machine": machine(),
        "versions": versions("transformers"),
        "rates": found,
    }
    asked.json.parent.mkdir(parents=True, exist_ok=True)
    asked.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
