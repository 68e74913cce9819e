"""Rarefy, called as a user calls it and measured as the peers are:

    python rarefy_recipe.py [-m prune.wanda:sparsity=0.5] [--size BYTES | --bpw 3] --resume-in DIR MODEL TOKENS.npy OUT

OUT gets the artifact and run.json. DIR keeps what is unfinished: killed, the same command goes on there, and run.json
then says `resumed`, since its times are those of the last part alone.
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

import dense
import numpy as np


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument(
        "-m",
        "--method",
        action="append",
        default=[],
        help="NAME:setting=value,..; none with a budget alone",
    )
    budget = parser.add_mutually_exclusive_group()
    budget.add_argument("--size", help="bytes of the whole file")
    budget.add_argument("--bpw", help="bits a weight of the whole file")
    parser.add_argument("--resume-in", type=Path, required=True)
    parser.add_argument("--threads", default="2")
    parser.add_argument("model", type=Path)
    parser.add_argument("tokens", type=Path, help=".npy of int token ids [samples, length]")
    parser.add_argument("out", type=Path)
    asked = parser.parse_args()
    tokens, data, made = np.load(asked.tokens), asked.resume_in / "calibration.npz", asked.resume_in / "artifact"
    resumed, began = asked.resume_in.exists(), time.perf_counter()
    asked.resume_in.mkdir(parents=True, exist_ok=True)
    if not data.exists():
        np.savez(data, x=tokens)
    compress = [sys.executable, "-m", "rarefy.cli", "compress", asked.model, made]
    compress += [word for method in asked.method for word in ("-m", method)]
    compress += ["--size", asked.size] if asked.size else ["--bpw", asked.bpw] if asked.bpw else []
    settings = ["--data", data, "--blocks", str(len(tokens)), "--threads", asked.threads, "--json"]
    said = json.loads(subprocess.run([*compress, *settings], check=True, stdout=subprocess.PIPE).stdout)
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    found = {
        "recipe": asked.method,
        **({"bpw": float(asked.bpw)} if asked.bpw else {}),
        "total_wall_s": round(time.perf_counter() - began, 2),
        "total_processor_s": round(used.ru_utime + used.ru_stime, 2),
        "total_peak_bytes": said["peak_rss_bytes"],
        "resumed": resumed,
        "threads": int(asked.threads),
        "tokens": list(tokens.shape),
        "versions": {package: version(package) for package in ("rarefy", "torch", "transformers")},
        "bytes": dense.spent_safetensors(made),
    }
    shutil.copytree(made, asked.out, dirs_exist_ok=True)
    (asked.out / "run.json").write_text(json.dumps(found, indent=1) + "\n")
    shutil.rmtree(asked.resume_in)


if __name__ == "__main__":
    main()
