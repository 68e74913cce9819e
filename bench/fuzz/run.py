"""Coverage-guided fuzzing of what reads files, in slices that go on where the last one ended.

    python bench/fuzz/run.py kernels --seconds 900    libFuzzer: the C++ kernels, with AddressSanitizer and UBSan
    python bench/fuzz/run.py readers --seconds 900    Atheris: the Python readers
    python bench/fuzz/run.py keep                     a small corpus of the same coverage, for the tests

Corpus and finds stand in --work. Seconds, executions and what was covered are added up in --out.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

from machine import machine, versions  # noqa: E402 -- the folder above is no package

NATIVE = HERE.parent.parent / "src/rarefy/native"
FLAGS = ("-std=c++17", "-O2", "-g", "-fno-omit-frame-pointer", "-fno-sanitize-recover=all")
LIMITS = {
    "kernels": ("-max_len=4096", "-timeout=20", "-rss_limit_mb=2048", "-detect_leaks=1"),
    "readers": ("-max_len=2048", "-timeout=20", "-rss_limit_mb=4096"),
}
KEPT_BYTES = 48_000
"""A kept corpus is no larger."""


def command(target: str, work: Path) -> list[str]:
    """What runs libFuzzer over a target; the kernels are built first."""
    if target == "readers":
        return [sys.executable, str(HERE / "guided.py")]
    sources = [HERE / "kernels.cpp", *(path for path in NATIVE.glob("*.cpp") if path.name != "module.cpp")]
    binary = work / "fuzz_kernels"
    newest = max(path.stat().st_mtime for path in (*sources, *NATIVE.glob("*.hpp")))
    if not binary.exists() or binary.stat().st_mtime < newest:
        build = ["clang++", *FLAGS, "-fsanitize=fuzzer,address,undefined", f"-I{NATIVE}", *map(str, sources)]
        subprocess.run([*build, "-o", str(binary)], check=True)
    return [str(binary)]


def fuzz(target: str, seconds: int, work: Path) -> dict[str, Any]:
    """One slice: what it did."""
    corpus, finds = work / target / "corpus", work / target / "finds"
    for folder in (corpus, finds):
        folder.mkdir(parents=True, exist_ok=True)
    if target == "readers":
        import readers

        for i, data in enumerate(readers.seeds()):
            (corpus / f"seed{i}").write_bytes(data)
    limits = [*LIMITS[target], f"-max_total_time={seconds}", f"-artifact_prefix={finds}/", "-print_final_stats=1"]
    log = work / target / "log.txt"
    with log.open("w") as out:
        subprocess.run([*command(target, work), str(corpus), *limits], stdout=out, stderr=subprocess.STDOUT)
    text = log.read_text(errors="replace")
    done = re.search(r"Done (\d+) runs in (\d+) second", text)
    reached = re.findall(r"cov: (\d+) ft: (\d+)", text)
    if not reached:
        raise SystemExit(f"no fuzzing happened: see {log}")
    if not done:
        raise SystemExit(f"an input broke it: see {log} and {finds}")
    edges, features = map(int, reached[-1])
    return {
        "seconds": int(done[2]),
        "executions": int(done[1]),
        "edges": edges,
        "features": features,
        "corpus": sum(1 for _ in corpus.iterdir()),
        "crashes": sum(1 for path in finds.iterdir() if path.name.startswith(("crash", "timeout", "oom", "leak"))),
    }


def add(out: Path, target: str, slice_: dict[str, Any]) -> None:
    """Put a slice into the summary: seconds and executions add up, the rest is the newest."""
    summary = json.loads(out.read_text()) if out.exists() else {}
    before = summary.get(target, {})
    total = {key: before.get(key, 0) + slice_[key] for key in ("seconds", "executions")}
    summary |= {"machine": machine(), "versions": versions("atheris"), target: {**slice_, **total}}
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(summary, indent=1) + "\n")


def keep(work: Path) -> None:
    """Write the corpora for the tests: inputs, short ones first, each after its length in two bytes."""
    for target in LIMITS:
        kept = b""
        for data in sorted((path.read_bytes() for path in least(target, work).iterdir()), key=lambda d: (len(d), d)):
            if len(kept) + 2 + len(data) <= KEPT_BYTES:
                kept += len(data).to_bytes(2, "little") + data
        (HERE / f"{target}.corpus").write_bytes(kept)
        print(f"{target}.corpus: {len(kept)} bytes")


def least(target: str, work: Path) -> Path:
    """A folder of as few inputs as cover the same; of the readers all, since Atheris cannot merge under a script."""
    corpus, merged = work / target / "corpus", work / target / "least"
    if target == "readers":
        return corpus
    shutil.rmtree(merged, ignore_errors=True)
    merged.mkdir()
    merge = ["-merge=1", *LIMITS[target], str(merged), str(corpus)]
    subprocess.run([*command(target, work), *merge], check=True, capture_output=True)
    return merged


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=[*LIMITS, "keep"])
    parser.add_argument("--seconds", type=int, default=900)
    parser.add_argument("--work", type=Path, default=Path("build/fuzz"))
    parser.add_argument("--out", type=Path, default=Path("bench/results/fuzz.json"))
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    if options.what == "keep":
        keep(options.work)
        return
    found = fuzz(options.what, options.seconds, options.work)
    add(options.out, options.what, found)
    print(options.what, found)


if __name__ == "__main__":
    main()
