"""Rate and speed of the rANS coder, on one core, beside constriction and zstd in the same run.

    python bench/codec.py [--symbols N] [--repeats R] [--out bench/results/codec.json]

Coded bits count everything a reader needs: a table of two bytes for each symbol in use, and the states of every tile.
Speeds are in 10^9 byte symbols a second, the best of the repeats over all tiles, tables built anew for each tile.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import constriction
import numpy as np
import zstandard

from machine import machine, versions
from rarefy.entropy import rans

if TYPE_CHECKING:
    from collections.abc import Callable

TILE_BYTES = 65536
K = 12


def geometric(rng: np.random.Generator, n: int, bits: float) -> np.ndarray:
    """Geometric symbols whose entropy is `bits`: the parameter is found by bisection."""
    low, high = 1e-6, 1 - 1e-9
    for _ in range(60):
        p = (low + high) / 2
        h = -np.log2(p) - (1 - p) / p * np.log2(1 - p)
        low, high = (p, high) if h > bits else (low, p)
    return np.minimum(rng.geometric(low, n) - 1, 255).astype(np.uint8)


def gaussian_weights(rng: np.random.Generator, n: int, levels: int, group: int = 128) -> np.ndarray:
    """Normal weights rounded to a symmetric grid, its scale the largest magnitude of each group."""
    w = rng.standard_normal((-(-n // group), group), np.float32)
    half = levels // 2 - 1
    scale = np.abs(w).max(axis=1, keepdims=True) / half
    return (np.rint(w / scale) + half).astype(np.uint8).ravel()[:n]


def sources(n: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        **{f"geometric, {bits} bit": geometric(rng, n, bits) for bits in (1, 2, 3, 4)},
        "uniform, 256 symbols": rng.integers(0, 256, n, np.uint8),
        "Gaussian weights, 4-bit grid": gaussian_weights(rng, n, 16),
    }


def best_seconds(call: Callable[[], object], repeats: int) -> float:
    best = float("inf")
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        best = min(best, time.perf_counter() - start)
    return best


def entropy(symbols: np.ndarray) -> float:
    p = rans.histogram(symbols) / symbols.size
    return float(-(p[p > 0] * np.log2(p[p > 0])).sum())


def measure_rans(symbols: np.ndarray, repeats: int) -> dict[str, float]:
    n = symbols.size
    freqs = rans.quantize_counts(rans.histogram(symbols), K)
    tile = max(int(8 * TILE_BYTES / max(entropy(symbols), 0.01)), 1)
    lanes = rans.lanes_for(min(TILE_BYTES, int(n * entropy(symbols) / 8)))
    tiles = [symbols[i : i + tile] for i in range(0, n, tile)]
    coded = [rans.encode(t, freqs, K, lanes) for t in tiles]
    out = np.empty(n, np.uint8)
    parts = [out[i : i + tile] for i in range(0, n, tile)]

    def decode() -> None:
        for data, part in zip(coded, parts, strict=True):
            rans.decode(data, part.size, freqs, K, lanes, part)

    encode_s = best_seconds(lambda: [rans.encode(t, freqs, K, lanes) for t in tiles], repeats)
    decode_s = best_seconds(decode, repeats)
    if not np.array_equal(out, symbols):
        raise SystemExit("the decoded symbols differ from the source")
    size = sum(map(len, coded)) + 2 * int(np.count_nonzero(freqs))
    return _row(n, size, encode_s, decode_s) | {"lanes": lanes, "tiles": len(tiles)}


def measure_constriction(symbols: np.ndarray, repeats: int) -> dict[str, float]:
    """Its ANS coder under the exact probabilities; its table is counted as ours is."""
    counts = rans.histogram(symbols)[: int(symbols.max()) + 1]
    model = constriction.stream.model.Categorical((counts / counts.sum()).astype(np.float32), perfect=False)
    message = symbols.astype(np.int32)

    def encode() -> np.ndarray:
        coder = constriction.stream.stack.AnsCoder()
        coder.encode_reverse(message, model)
        return coder.get_compressed()

    data = encode()
    encode_s = best_seconds(encode, repeats)
    decode_s = best_seconds(lambda: constriction.stream.stack.AnsCoder(data).decode(model, message.size), repeats)
    return _row(symbols.size, data.nbytes + 2 * int(np.count_nonzero(counts)), encode_s, decode_s)


def measure_zstd(symbols: np.ndarray, repeats: int, level: int) -> dict[str, float]:
    raw = symbols.tobytes()
    data = zstandard.ZstdCompressor(level=level).compress(raw)
    encode_s = best_seconds(lambda: zstandard.ZstdCompressor(level=level).compress(raw), max(repeats // 4, 1))
    decode_s = best_seconds(lambda: zstandard.ZstdDecompressor().decompress(data), repeats)
    return _row(symbols.size, len(data), encode_s, decode_s)


def _row(n: int, size: int, encode_s: float, decode_s: float) -> dict[str, float]:
    return {
        "bits_per_symbol": round(8 * size / n, 5),
        "encode_GB_s": round(n / encode_s / 1e9, 3),
        "decode_GB_s": round(n / decode_s / 1e9, 3),
    }


def rows(n: int, repeats: int) -> list[dict[str, Any]]:
    table = []
    for name, symbols in sources(n).items():
        ideal = entropy(symbols)
        coders = {
            f"rarefy rANS, k={K}": measure_rans(symbols, repeats),
            "constriction ANS": measure_constriction(symbols, repeats),
            "zstd -3": measure_zstd(symbols, repeats, 3),
            "zstd -19": measure_zstd(symbols, repeats, 19),
        }
        for coder, row in coders.items():
            overhead = round(100 * (row["bits_per_symbol"] / ideal - 1), 3)
            row = {"source": name, "coder": coder, "entropy": round(ideal, 5), "overhead_percent": overhead, **row}
            table.append(row)
            print(
                f"{name:29} {coder:18} H {ideal:.4f}  bits {row['bits_per_symbol']:.4f}  {overhead:+8.3f} %  "
                f"encode {row['encode_GB_s']:6.3f}  decode {row['decode_GB_s']:6.3f} GB/s"
            )
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--symbols", type=int, default=10**6)
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "codec.json")
    args = parser.parse_args()
    if args.symbols < 1:
        sys.exit("codec: --symbols must be at least 1")
    result = {
        "machine": machine(),
        "versions": versions("constriction", "zstandard"),
        "symbols": args.symbols,
        "rows": rows(args.symbols, args.repeats),
    }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
