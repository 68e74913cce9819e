"""Lossless packing beside ZipNN and zstd: bytes, and speed both ways, in one run with the same threads.

    python bench/lossless.py --zipnn PYTHON [--threads 1 2] [--rounds N] [--out bench/results/lossless.json]

PYTHON is the interpreter of an environment of ZipNN's own (pip install zipnn==0.5.4 numpy torch zstandard): it changes
its input in place and asks for more than it says. Files are read and written in memory (/dev/shm) where there is one.

Rows "codec": tensors in memory to coded bytes and back. Rows "command": from the original's files to files and back,
everything that `rarefy pack` and `unpack` do (checksums, SHA-256, side files, fsync) beside ZipNN's script reading and
writing one file. Bytes are those of records for "codec" and of weight files and manifest for "command". Speeds are
10^9 bytes of original weights a second, by the clock and by the processor time of all threads; the best of two in each
of the rounds. zstd -19 codes the first 20 MB only, and its ratio is of those. Differences are from copies made here.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import zstandard
from safetensors.torch import load_file, save_file

from machine import machine, versions
from networks import CACHE, minilm, smollm2
from rarefy.files.record import parse
from rarefy.files.restoring import Held, restore
from rarefy.files.windows import choose_all, code
from rarefy.plan.checkpoint import Checkpoint
from rarefy.plan.pack import _parts, pack
from rarefy.plan.unpack import unpack

ZSTD_SAMPLE = 20_000_000
SCRATCH = Path("/dev/shm" if os.access("/dev/shm", os.W_OK) else tempfile.gettempdir())

ZIPNN = """
import json, sys, time
import zipnn
path, dtype, threads, repeats, out, back = sys.argv[1:7]
whole = open(path, "rb").read()
data = whole[8 + int.from_bytes(whole[:8], "little"):]
def best(make, call):
    wall = cpu = float("inf")
    for _ in range(int(repeats)):
        given = make()
        w, c = time.perf_counter(), time.process_time()
        result = call(given)
        wall, cpu = min(wall, time.perf_counter() - w), min(cpu, time.process_time() - c)
    return result, wall, cpu
new = lambda: zipnn.ZipNN(bytearray_dtype=dtype, threads=int(threads))
coded, *encode = best(lambda: bytearray(data), lambda d: new().compress(d))
coded = bytes(coded)
restored, *decode = best(lambda: coded, lambda d: new().decompress(d))
assert bytes(restored) == data
def file(source, target, do):
    def run(_):
        with open(source, "rb") as f:
            given = bytearray(f.read())
        with open(target, "wb") as f:
            f.write(do(given))
    return run
_, *there = best(lambda: None, file(path, out, lambda d: new().compress(d)))
_, *again = best(lambda: None, file(out, back, lambda d: new().decompress(bytes(d))))
assert open(back, "rb").read() == whole
print(json.dumps([len(data), len(coded), encode, decode, len(open(out, "rb").read()), there, again]))
"""


def best(repeats: int, call: Callable[[], Any]) -> tuple[Any, list[float]]:
    """The last result; the least wall and processor seconds."""
    least = [float("inf")] * 2
    result = None
    for _ in range(repeats):
        wall, cpu = time.perf_counter(), time.process_time()
        result = call()
        least = [min(least[0], time.perf_counter() - wall), min(least[1], time.process_time() - cpu)]
    return result, least


def row(
    who: str, kind: str, threads: int, raw: int, coded: int, encode: list[float], decode: list[float]
) -> dict[str, Any]:
    speeds = {
        f"{way}_GB_s{suffix}": round(raw / seconds / 1e9, 4)
        for way, both in (("encode", encode), ("decode", decode))
        for suffix, seconds in zip(("", "_cpu"), both, strict=True)
    }
    return {"who": who, "kind": kind, "threads": threads, "bytes": coded, "ratio": round(coded / raw, 5), **speeds}


def fastest(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """One row with the best speeds of several."""
    return {key: max(row[key] for row in rows) if "GB_s" in key else value for key, value in rows[0].items()}


class Memory:
    """A spool that keeps what it is given."""

    def __init__(self) -> None:
        self.parts: list[bytes] = []

    def append(self, data: bytes) -> int:
        self.parts.append(data)
        return len(self.parts) - 1

    def read(self, start: int, size: int) -> bytes:
        return self.parts[start]


def rarefy_codec(folder: Path, threads: int, repeats: int) -> dict[str, Any]:
    def encode() -> list[Any]:
        checkpoint = Checkpoint(folder)
        return list(code(choose_all(_parts(checkpoint, None), threads), Memory(), threads, lambda _: None))  # type: ignore[arg-type]

    coded, encoding = best(repeats, encode)
    records = {each.part.name: b"".join(each.chunks()) for each in coded}

    def decode() -> int:
        wanted = ((name, parse(record), None) for name, record in records.items())
        return sum(window.size for window in restore(Held(records), wanted, threads))

    raw, decoding = best(repeats, decode)
    return row("rarefy", "codec", threads, raw, sum(each.size for each in coded), encoding, decoding)


def rarefy_command(folder: Path, work: Path, threads: int, repeats: int, base: Path | None = None) -> dict[str, Any]:
    out, back = work / "out", work / "back"

    def fresh(path: Path, call: Callable[[], Any]) -> Any:
        shutil.rmtree(path, ignore_errors=True)
        return call()

    made, encoding = best(repeats, lambda: fresh(out, lambda: pack(folder, out, base=base, threads=threads)))
    _, decoding = best(repeats, lambda: fresh(back, lambda: unpack(out, back, base=base, threads=threads)))
    for file in folder.glob("*.safetensors"):
        if file.read_bytes() != (back / file.name).read_bytes():
            sys.exit(f"lossless: {file} did not come back")
    size = made.bytes + (out / "manifest.json").stat().st_size
    return row("rarefy" + (" --base" if base else ""), "command", threads, made.original, size, encoding, decoding)


def zipnn(python: str, folder: Path, work: Path, dtype: str, threads: int, repeats: int) -> list[dict[str, Any]]:
    file = folder / "model.safetensors"
    words = [python, "-c", ZIPNN, file, dtype, threads, repeats, work / "zipnn", work / "zipnn.back"]
    ran = subprocess.run([str(word) for word in words], capture_output=True, text=True, check=True)
    raw, coded, encode, decode, size, there, again = json.loads(ran.stdout.splitlines()[-1])
    return [
        row("ZipNN", "codec", threads, raw, coded, encode, decode),
        row("ZipNN", "command", threads, file.stat().st_size, size, there, again),
    ]


def zstd(folder: Path, level: int, threads: int, repeats: int) -> dict[str, Any]:
    whole = (folder / "model.safetensors").read_bytes()
    data = whole[8 + int.from_bytes(whole[:8], "little") :]
    data = data[:ZSTD_SAMPLE] if level > 3 else data
    compressor = zstandard.ZstdCompressor(level=level, threads=threads if threads > 1 else 0)
    coded, encode = best(1 if level > 3 else repeats, lambda: compressor.compress(data))
    _, decode = best(repeats, lambda: zstandard.ZstdDecompressor().decompress(coded))
    sample = {"sample_bytes": len(data)} if level > 3 else {}
    return row(f"zstd -{level}", "codec", threads, len(data), len(coded), encode, decode) | sample


def sources(cache: Path) -> dict[str, tuple[Path, str]]:
    """Networks by name, as directories, with ZipNN's name of their type."""
    half = cache / "minilm-bf16"
    if not half.exists():
        half.mkdir(parents=True)
        tensors = load_file(minilm() / "model.safetensors")
        floats = {name: t.to(torch.bfloat16) if t.is_floating_point() else t for name, t in tensors.items()}
        save_file(floats, half / "model.safetensors", {"format": "pt"})
    return {
        "MiniLM-L6 fp32": (minilm(), "float32"),
        "MiniLM-L6 bf16": (half, "bfloat16"),
        "SmolLM2-135M off-grid bf16": (smollm2(cache, "bf16"), "bfloat16"),
    }


def tuned(folder: Path, cache: Path, steps: int = 5) -> Path:
    """SmolLM2 after some steps of AdamW at 2e-5 in float32 on Python's documentation, saved in bf16 again."""
    target = cache / f"{folder.name}-tuned-{steps}"
    if target.exists():
        return target
    import pydoc_data.topics

    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.manual_seed(0)
    network = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    text = "\n".join(pydoc_data.topics.topics[name] for name in sorted(pydoc_data.topics.topics)[:20])
    ids = AutoTokenizer.from_pretrained(folder)(text, return_tensors="pt").input_ids[0]
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-5)
    for step in range(steps):
        block = ids[None, 256 * step : 256 * (step + 1)]
        network(input_ids=block, labels=block).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    network.to(torch.bfloat16).save_pretrained(target)
    return target


def noisy(folder: Path, cache: Path, scale: float = 1e-3) -> Path:
    """The same network with noise of a thousandth of each tensor's spread."""
    target = cache / f"{folder.name}-noisy"
    if not target.exists():
        target.mkdir(parents=True)
        torch.manual_seed(0)
        tensors = load_file(folder / "model.safetensors")
        moved = {
            n: (t.float() + scale * t.float().std() * torch.randn(t.shape)).to(t.dtype) for n, t in tensors.items()
        }
        save_file(moved, target / "model.safetensors", {"format": "pt"})
    return target


def unrelated(folder: Path, cache: Path) -> Path:
    """The same names and shapes, rows in another order."""
    target = cache / f"{folder.name}-unrelated"
    if not target.exists():
        target.mkdir(parents=True)
        tensors = load_file(folder / "model.safetensors")
        generator = torch.Generator().manual_seed(0)
        moved = {
            n: t.flatten()[torch.randperm(t.numel(), generator=generator)].view(t.shape) for n, t in tensors.items()
        }
        save_file(moved, target / "model.safetensors", {"format": "pt"})
    return target


def measured(args: argparse.Namespace, work: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []

    def add(network: str, *found: dict[str, Any]) -> None:
        for each in found:
            rows.append({"network": network, **each})
            speeds = ", ".join(
                f"{way} {each[f'{way}_GB_s']:.3f} ({each[f'{way}_GB_s_cpu']:.3f} a core)"
                for way in ("encode", "decode")
            )
            what = f"{network:36} {each['who']:14} {each['kind']:8} {each['threads']} threads"
            print(f"{what}  {100 * each['ratio']:7.3f} %  {speeds} GB/s", flush=True)

    found = sources(args.cache)
    for network, (folder, dtype) in found.items():
        local = work / "in"
        shutil.rmtree(local, ignore_errors=True)
        shutil.copytree(folder, local)
        for threads in args.threads:
            rounds: list[list[dict[str, Any]]] = []
            for _ in range(args.rounds):  # one after the other, so that what else the machine does meets all alike
                rounds.append([rarefy_codec(local, threads, 2), rarefy_command(local, work, threads, 2)])
                if args.zipnn:
                    rounds[-1] += zipnn(args.zipnn, local, work, dtype, threads, 2)
                rounds[-1].append(zstd(local, 3, threads, 2))
            add(network, *(fastest(list(each)) for each in zip(*rounds, strict=True)))
        add(network, zstd(local, 19, 1, 1))
    base = found["SmolLM2-135M off-grid bf16"][0]
    copies = {
        "itself": base,
        "5 steps of AdamW": tuned(base, args.cache),
        "noise, 0.1 % of the spread": noisy(base, args.cache),
        "unrelated (shuffled)": unrelated(base, args.cache),
    }
    for what, folder in copies.items():
        add(f"SmolLM2 bf16, {what}", rarefy_command(folder, work, args.threads[-1], 1))
        add(f"SmolLM2 bf16, {what}", rarefy_command(folder, work, args.threads[-1], 1, base))
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown of the rows, as docs/guides/lossless.md shows them."""
    lines = ["| network | | threads | size | GB/s in | out | a core, in | out |", "|---|---|---|---|---|---|---|---|"]
    for each in rows:
        speeds = [each[f"{way}_GB_s{cpu}"] for cpu in ("", "_cpu") for way in ("encode", "decode")]
        who = f"{each['who']}, {each['kind']}" + (" (20 MB)" if "sample_bytes" in each else "")
        cells = [each["network"], who, str(each["threads"]), f"{100 * each['ratio']:.2f} %"]
        lines.append("| " + " | ".join(cells + [f"{speed:.3g}" for speed in speeds]) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--zipnn", metavar="PYTHON", help="left out: no rows of ZipNN")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--cache", type=Path, default=CACHE)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "lossless.json")
    parser.add_argument("--table", action="store_true", help="print the last results as Markdown, measure nothing")
    args = parser.parse_args()
    if args.table:
        print(table(json.loads(args.out.read_text())["rows"]))
        return
    with tempfile.TemporaryDirectory(dir=SCRATCH) as work:
        rows = measured(args, Path(work))
    result = {"machine": machine(), "versions": versions("zstandard") | {"zipnn": "0.5.4"}, "rows": rows}
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
