"""Deep Compression's tables, and what goes past them: LeNet-300-100, LeNet-5 and ResNet-20, whole files.

    python bench/deep_compression.py                       every row and seed that is missing; goes on where it was
    python bench/deep_compression.py 'lenet5/*'            of these rows only, by NETWORK/ROW
    python bench/deep_compression.py --try lenet5 METHOD..  one recipe, measured on held-out images alone

The originals are Caffe's LeNets and a CIFAR-10 ResNet, its batch normalizations folded, from $RAREFY_DATA. Settings
were chosen with --try on the last 5,000 training images, which no recipe here trains on (the originals did). Bytes are
those of the whole weight file; KL to the original and error are of the test images, which a row sees once.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.torch import save_file

import networks
import rarefy
from machine import machine, versions
from rarefy.evidence.sources import read_arrays
from rarefy.families.folding import fold
from rarefy.files.atomic import write_bytes
from rarefy.report.progress import showing
from rarefy.units import Interval

HERE = Path(__file__).resolve().parent
HELD_OUT = 5000
SEEDS = {"lenet300": 5, "lenet5": 5, "resnet20": 1}


@dataclass(frozen=True)
class Row:
    """A recipe, as on the command line, what its streams are written with, and the type it is trained in."""

    methods: tuple[str, ...]
    coder: str = "archive"
    dtype: str = "float32"


def rounds(pruned: list[dict[str, float]], shared: dict[str, int], epochs: list[float], learn: str) -> tuple[str, ...]:
    """The paper's pipeline: prune and retrain, again, share weights, retrain.

    pruned: of each round, pattern -> sparsity. shared: pattern -> bits. epochs: of each retraining. learn: settings.
    """
    words: list[str] = []
    for sparsity, passes in zip(pruned, epochs, strict=False):
        words += [f"prune.magnitude:sparsity={share},include=[{name}]" for name, share in sparsity.items()]
        words.append(f"recover.retrain:epochs={passes},{learn}")
    words += [f"quantize.kmeans:bits={bits},include=[{name}]" for name, bits in shared.items()]
    return (*words, f"recover.retrain:epochs={epochs[-1]},{learn}")


def learned(size: int, epochs: int, follow: str = "soft=0,augment=shift") -> str:
    """Everything at once, under a price that keeps the size: the file comes out smaller, since its coders do better."""
    return f"quantize.entropy_aware:size={size},epochs={epochs},rate=0.0015,{follow}"


ROWS: dict[str, dict[str, Row]] = {
    "lenet300": {
        # The paper's densities: 8, 9 and 26 %.
        "Deep Compression": Row(
            rounds(
                [
                    {"ip1.weight": 0.8, "ip2.weight": 0.8, "ip3.weight": 0.5},
                    {"ip1.weight": 0.92, "ip2.weight": 0.91, "ip3.weight": 0.74},
                ],
                {"ip*.weight": 5},
                [4, 8, 4],
                "batch=256,rate=0.01,soft=0.5,augment=shift",
            ),
            "huffman",
        ),
        "quantize.entropy_aware, 6.5 KB": Row((learned(6500, 40),)),
    },
    "lenet5": {
        # The paper's densities: 66, 12, 8 and 19 %; 8 bits for convolutions, 5 for the others.
        "Deep Compression": Row(
            rounds(
                [
                    {"conv1.weight": 0.2, "conv2.weight": 0.7, "ip1.weight": 0.8, "ip2.weight": 0.6},
                    {"conv1.weight": 0.34, "conv2.weight": 0.88, "ip1.weight": 0.92, "ip2.weight": 0.81},
                ],
                {"conv*.weight": 8, "ip*.weight": 5},
                [2, 4, 2],
                "batch=256,rate=0.01,soft=0.5,augment=shift",
            ),
            "huffman",
        ),
        "quantize.entropy_aware, 2.5 KB": Row((learned(2500, 25),)),
    },
    "resnet20": {
        "quantize.entropy_aware, 45 KB": Row((learned(45_000, 20, "soft=0.5,augment=crop"),), dtype="bfloat16"),
        "quantize.entropy_aware, 58 KB": Row(
            (learned(58_000, 22, "ramp=0.4,soft=0.5,augment=crop"),), dtype="bfloat16"
        ),
        "quantize.entropy_aware, 58 KB, 40 epochs, temperature 4": Row(
            (learned(58_000, 40, "ramp=0.4,soft=0.9,temperature=4,augment=crop"),), dtype="bfloat16"
        ),
    },
}


PUBLISHED: dict[str, list[tuple[str, int | None, float | None, float]]] = {
    "lenet300": [
        ("Deep Compression (Han et al. 2016)", 27_000, 40, 1.58),
        ("Dynamic Network Surgery (Guo et al. 2016), weights alone", None, 56, 1.99),
        ("Soft weight-sharing (Ullrich et al. 2017) *", None, 64, 1.94),
        ("Bayesian Compression (Louizos et al. 2017) *", 18_200, 58, 1.8),
        ("Entropy-penalized reparameterization (Oktay et al. 2020) *", 8_560, 124, 1.9),
    ],
    "lenet5": [
        ("Deep Compression (Han et al. 2016)", 44_000, 39, 0.74),
        ("Dynamic Network Surgery (Guo et al. 2016), weights alone", None, 108, 0.91),
        ("Soft weight-sharing (Ullrich et al. 2017) *", None, 162, 0.97),
        ("Entropy-penalized reparameterization (Oktay et al. 2020)", 2_840, 606, 0.9),
        ("MIRACLE (Havasi et al. 2019) *", 1_520, 1110, 0.96),
    ],
    "resnet20": [],
}
"""By whom, bytes, ratio, test error in percent. *: quoted from memory."""


# ---- networks and data


def source(network: str, cache: Path) -> str:
    """What `rarefy compress` opens: a factory of this folder, and the original's weights."""
    if network != "resnet20":
        return f"networks:{network}@{networks.checkpoint(network)}"
    folder = cache / "resnet20-folded"
    if not folder.exists():
        with networks.whole(folder) as work:
            save_file(fold(networks.trained("resnet20")).state_dict(), work / "resnet20.safetensors")
    return f"networks:resnet20_folded@{folder / 'resnet20.safetensors'}"


def data(network: str, part: str, cache: Path) -> Path:
    """An .npz with images and labels. part: train, all but the last 5,000 training images; held-out, these; test."""
    name, (all_of_it, test) = (
        ("cifar10", (networks.cifar10_train, networks.cifar10_test))
        if network == "resnet20"
        else ("mnist", (lambda: networks.mnist("train"), networks.mnist))
    )
    rows = slice(-HELD_OUT, None) if part == "held-out" else slice(None, -HELD_OUT)
    if part == "test":
        return networks.npz(cache, f"{name}-test", test)
    return networks.npz(cache, f"{name}-{part}", lambda: {key: array[rows] for key, array in all_of_it().items()})


# ---- stages


def place(network: str, row: Row, seed: int, cache: Path) -> Path:
    """Where the artifact of a recipe stands."""
    digest = hashlib.sha256(repr((row, seed)).encode()).hexdigest()[:10]
    return cache / "deep-compression" / f"{network}-{digest}"


def beside(artifact: Path, what: str) -> Path:
    """Where it is kept what was found of an artifact."""
    return artifact.with_name(f"{artifact.name}-{what}.json")


def made(network: str, row: Row, seed: int, cache: Path) -> tuple[Path, dict[str, Any]]:
    """The artifact of a recipe, and what making it said; made once, from where it was left."""
    out = place(network, row, seed, cache)
    out.parent.mkdir(parents=True, exist_ok=True)

    def make() -> dict[str, Any]:
        train = data(network, "train", cache)
        with showing() as progress:
            result = rarefy.compress(
                source(network, cache), out, row.methods, coder=row.coder, data=[train], seed=seed, threads=1,
                dtype=row.dtype, progress=progress,
            )  # fmt: skip
        ratio = 4 * result.weights / result.bytes
        return {"bytes": result.bytes, "ratio": ratio, "processor_s": round(result.cpu_seconds)}

    return out, once(beside(out, "made"), make)


def stage(network: str, row: Row, seed: int, part: str, cache: Path) -> dict[str, Any]:
    """What a recipe makes and scores."""
    out, said = made(network, row, seed, cache)

    def measure() -> dict[str, Any]:
        original = source(network, cache)
        ours = rarefy.open(f"{original.partition('@')[0]}@{out}").module()
        figures = rarefy.evaluate(
            ours, read_arrays(data(network, part, cache)), against=rarefy.open(original).module(), batch=500
        )
        return {
            "error": wrong(figures.accuracy),
            "original_error": wrong(figures.reference and figures.reference.accuracy),
            "worse": wrong(figures.difference, 0.0),
            "kl": figures.kl and figures.kl.as_json(),
        }

    return {"seed": seed, **said, **once(beside(out, part), measure)}


def once(kept: Path, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What a file holds, or is to hold from now on."""
    if not kept.exists():
        write_bytes(kept, (json.dumps(make(), indent=1) + "\n").encode())
    found: dict[str, Any] = json.loads(kept.read_text())
    return found


def wrong(right: Interval | None, whole: float = 1.0) -> dict[str, float]:
    """Percent that are wrong, from the share that is right; of a difference, with whole = 0."""
    assert right is not None
    ends = {"value": right.value, "low": right.high, "high": right.low}
    return {name: round(100 * (whole - end), 3) for name, end in ends.items()}


def summary(found: list[dict[str, Any]]) -> dict[str, Any]:
    """Means and standard deviations over seeds."""
    figures = {
        "bytes": [run["bytes"] for run in found],
        "ratio": [run["ratio"] for run in found],
        **{name: [run[name]["value"] for run in found] for name in ("error", "worse", "kl")},
    }
    return {
        name: {"mean": float(np.mean(each)), "deviation": float(np.std(each, ddof=1)) if len(each) > 1 else None}
        for name, each in figures.items()
    }


def report(cache: Path) -> dict[str, Any]:
    """All that has been measured."""
    rows: dict[str, Any] = {network: {} for network in ROWS}
    missing = []
    for network, name, row in every_row():
        seeds = [seed for seed in range(SEEDS[network]) if beside(place(network, row, seed, cache), "test").exists()]
        runs = [stage(network, row, seed, "test", cache) for seed in seeds]
        if runs:
            said = {"methods": list(row.methods), "coder": row.coder, "dtype": row.dtype}
            rows[network][name] = {**said, "summary": summary(runs), "runs": runs}
        if len(runs) < SEEDS[network]:
            missing.append(f"{network}/{name}, {SEEDS[network] - len(runs)} of {SEEDS[network]} seeds")
    about = {"machine": machine(), "versions": versions("transformers"), "published": PUBLISHED}
    return {**about, "rows": rows, "missing": missing}


def every_row() -> list[tuple[str, str, Row]]:
    return [(network, name, row) for network, rows in ROWS.items() for name, row in rows.items()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("patterns", nargs="*", default=["*"], help="NETWORK/ROW; with --try, methods")
    parser.add_argument("--try", dest="tried", choices=sorted(ROWS), help="measure one recipe on held-out images")
    parser.add_argument("--coder", default="archive", help="of --try")
    parser.add_argument("--dtype", default="float32", help="of --try")
    parser.add_argument("--seed", type=int, default=0, help="of --try")
    parser.add_argument("--seeds", type=int, default=max(SEEDS.values()), help="of rows: at most so many")
    parser.add_argument("--cache", type=Path, default=networks.CACHE)
    parser.add_argument("--out", type=Path, default=HERE / "results" / "deep_compression.json")
    asked = parser.parse_args()
    if asked.tried:
        row = Row(tuple(asked.patterns), asked.coder, asked.dtype)
        print(json.dumps(stage(asked.tried, row, asked.seed, "held-out", asked.cache), indent=1))
        return
    for network, name, row in every_row():
        if not any(fnmatch(f"{network}/{name}", pattern) for pattern in asked.patterns):
            continue
        for seed in range(min(SEEDS[network], asked.seeds)):
            found = stage(network, row, seed, "test", asked.cache)
            print(f"{network}/{name} {seed}: {found['bytes']:,} bytes, {found['error']['value']:.2f} %", flush=True)
            asked.out.write_text(json.dumps(report(asked.cache), indent=1) + "\n")


if __name__ == "__main__":
    main()
