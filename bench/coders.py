"""Bytes and speed of the coders, each for every stream that it makes smaller, on what networks were rounded to.

    python bench/coders.py --artifact DIR [--squeezenet DIR] [--out bench/results/coders.json]

DIR of --artifact is what `rarefy compress MODEL DIR` wrote with `quantize.gptq` at 4 bits in groups of 64. --squeezenet
holds compressed_SqueezeNet.net, as the author of Deep Compression published it, and its prototxt: codes into a codebook
of 256 for each layer, and 4-bit gaps between their positions. Bytes count models, tiles and a size and a check for each
tile; speeds are in 10^6 symbols a second of processor time, fitting included, the best of --repeats.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from machine import machine, versions
from rarefy.codes import Grid
from rarefy.entropy import Coder, coder
from rarefy.files.container import Reader
from squeezenet import NET, layers

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    Streams = Iterator[tuple[str, NDArray[np.uint8]]]

CODERS = ("raw", "huffman", "rans", "context")
TILE_OVERHEAD = 4 + 3
"""Bytes of a tile's check and of its size."""


@dataclass
class Total:
    """Of the streams of one kind under one coder."""

    symbols: int = 0
    bytes: int = 0
    encode_s: float = 0.0
    decode_s: float = 0.0

    def add(self, other: Total) -> None:
        self.symbols += other.symbols
        self.bytes += other.bytes
        self.encode_s += other.encode_s
        self.decode_s += other.decode_s

    def row(self) -> dict[str, float]:
        speed = {
            f"{way}_MB_s": round(self.symbols / seconds / 1e6, 1)
            for way, seconds in (("encode", self.encode_s), ("decode", self.decode_s))
            if seconds
        }
        return {"bytes": self.bytes, "bits_per_symbol": round(8 * self.bytes / self.symbols, 4), **speed}


def measure(which: Coder, symbols: NDArray[np.uint8], repeats: int) -> Total:
    """One stream: fitted, coded and decoded, and compared with what it was."""
    flat = np.ascontiguousarray(symbols).reshape(-1)
    out = np.empty_like(flat)
    best = Total(flat.size, 0, np.inf, np.inf)
    for _ in range(repeats):
        start = time.process_time()
        model = which.fit(symbols)
        step = which.tile_symbols(model, symbols)
        tiles = [which.encode(flat[i : i + step], model) for i in range(0, flat.size, step)]
        middle = time.process_time()
        for i, tile in enumerate(tiles):
            which.decode(tile, model, out[i * step : (i + 1) * step])
        end = time.process_time()
        best.encode_s = min(best.encode_s, middle - start)
        best.decode_s = min(best.decode_s, end - middle)
    if not np.array_equal(out, flat):
        raise SystemExit("the decoded symbols differ from the source")
    best.bytes = len(model) + sum(map(len, tiles)) + TILE_OVERHEAD * len(tiles)
    return best


def gptq(path: Path) -> Streams:
    """The streams of the grids of an artifact; the embedding's, which another method rounded, are called so."""
    reader = Reader(path)
    for name in reader.names():
        code, _ = reader.code(name)
        if isinstance(code, Grid):
            where = "linear" if code.bits_per_symbol == 4 else "embedding"
            for stream in code.streams():
                yield f"{where} {stream.name}", stream.symbols


def squeezenet(folder: Path) -> Streams:
    """What its author's file holds, then the same numbers with codes counted from zero in the order of their centroids,
    and positions as a bit for each weight."""
    for layer in layers(folder):
        codes, centroids = layer.codes, layer.codebook
        yield "codes", codes
        yield "gaps", layer.gaps
        for plane in range(4):
            yield "codebook", centroids.view(np.uint8)[plane::4]
            yield "bias", layer.bias.view(np.uint8)[plane::4]
        rank = np.searchsorted(np.sort(centroids), centroids)
        from_zero = ((rank - np.count_nonzero(centroids < 0)) & 255).astype(np.uint8)
        yield "codes from zero", from_zero[codes][centroids[codes] != 0]
        yield "support", (layer.weight() != 0).astype(np.uint8).reshape(layer.shape[0], -1)


def table(streams: Streams, repeats: int) -> dict[str, dict[str, dict[str, float]]]:
    """By kind of stream, by coder."""
    totals: dict[str, dict[str, Total]] = defaultdict(lambda: defaultdict(Total))
    for kind, symbols in streams:
        raw = measure(coder("raw"), symbols, 1)
        raw.bytes = symbols.size
        for name in CODERS:
            coded = measure(coder(name), symbols, repeats) if name != "raw" else raw
            totals[kind][name].add(coded if coded.bytes < raw.bytes else raw)
    return {kind: {name: total.row() for name, total in row.items()} for kind, row in totals.items()}


def sums(rows: dict[str, dict[str, dict[str, float]]], *starts: str) -> dict[str, int]:
    """Bytes by coder of the kinds that begin with one of `starts`."""
    kinds = [row for kind, row in rows.items() if kind.startswith(starts)]
    return {name: int(sum(row[name]["bytes"] for row in kinds)) for name in CODERS}


def show(title: str, rows: dict[str, dict[str, dict[str, float]]]) -> None:
    print(f"\n{title}")
    for kind, row in rows.items():
        for name, cells in row.items():
            speeds = "  ".join(f"{way} {cells.get(f'{way}_MB_s', 0):8.1f} MB/s" for way in ("encode", "decode"))
            less = 100 * (1 - cells["bytes"] / row["rans"]["bytes"])
            print(f"{kind:22} {name:8} {cells['bytes']:12,}  {cells['bits_per_symbol']:7.4f}  {less:+6.2f} %  {speeds}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--artifact", type=Path)
    parser.add_argument("--squeezenet", type=Path, default=Path("../shared/data/cnn"))
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("bench/results/coders.json"))
    options = parser.parse_args()
    results: dict[str, Any] = {"machine": machine(), "versions": versions()}
    if (options.squeezenet / NET).exists():
        results["squeezenet"] = table(squeezenet(options.squeezenet), max(options.repeats, 3))
        results["squeezenet total"] = sums(results["squeezenet"], "codes from zero", "support", "codebook", "bias")
        show("SqueezeNet, published with 675,763 bytes", results["squeezenet"])
    if options.artifact:
        results["gptq"] = table(gptq(options.artifact), options.repeats)
        results["gptq total"] = sums(results["gptq"], "")
        results["gptq linear total"] = sums(results["gptq"], "linear")
        show("SmolLM2-135M, GPTQ 4 bits in groups of 64", results["gptq"])
    for name in (name for name in results if name.endswith("total")):
        row = results[name]
        print(name, {k: f"{v:,} ({100 * (1 - v / row['rans']):+.2f} %)" for k, v in row.items()})
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
