"""How fast an artifact opens and what memory that takes, beside the same network loaded from dense safetensors.

    python bench/opening.py ARTIFACT [--repeats R] [--out bench/results/opening.json]

Every figure comes from a fresh process, pinned to its cores, that has imported everything first and whose files are in
the page cache. Speed is restored float32 weight bytes a second, the best of the repeats, with every page of
every weight read once (a mapped file would otherwise count as loaded before it is); the bar is held against one core.
Seconds of the processor are beside, since other work on the machine does not add to them. Memory is the highest
resident set above the one after the imports, the worst of the repeats, over the bytes of the restored weights.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from machine import machine, versions

SPEED_BAR = 0.3
"""GB of restored float32 weights a second and core."""

MEMORY_BAR = 1.1
"""Peak above the imports over the dense weights."""

WAYS = ("rarefy.open", "from_pretrained", "dense from_pretrained")
PACKED = "packed from_pretrained"
"""Another way for a child, whose weights are no float32."""


def status(field: str) -> int:
    """A field of /proc/self/status, bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise KeyError(field)


def child(way: str, path: str, cores: int) -> dict[str, float]:
    """Open `path` in this process: seconds, processor seconds, bytes of the weights, peak memory above the imports."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])
    import torch
    import transformers

    import rarefy
    import rarefy.engines.plugin
    import rarefy.files.container

    torch.set_num_threads(cores)
    transformers.logging.disable_progress_bar()
    config = transformers.AutoConfig.from_pretrained(path)
    model_class = getattr(transformers, config.architectures[0])
    Path("/proc/self/clear_refs").write_text("5")
    before, began, spent = status("VmRSS"), time.perf_counter(), time.process_time()
    if way == "rarefy.open":
        module = rarefy.open(path).module()
    else:
        how = {"quantization_config": rarefy.Packed()} if way == PACKED else {"dtype": torch.float32}
        module = model_class.from_pretrained(path, **how)
    tensors = {id(t): t for t in (*module.parameters(), *module.buffers())}.values()
    page = 4096 // 4
    for tensor in tensors:
        tensor.detach().reshape(-1)[::page].sum()
    seconds, spent = time.perf_counter() - began, time.process_time() - spent
    size = sum(t.numel() * t.element_size() for t in tensors)
    return {"seconds": seconds, "cpu": spent, "bytes": size, "peak": status("VmHWM") - before}


def fresh(way: str, path: Path, cores: int) -> dict[str, float]:
    """`child` in a fresh process."""
    command = [sys.executable, __file__, str(path), "--child", way, "--cores", str(cores)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def unpack(artifact: Path, folder: Path) -> None:
    """The artifact as a dense float32 checkpoint."""
    import torch
    import transformers

    import rarefy  # noqa: F401 - makes from_pretrained open artifacts

    architecture = transformers.AutoConfig.from_pretrained(artifact).architectures[0]
    model = getattr(transformers, architecture).from_pretrained(artifact, dtype=torch.float32)
    model.save_pretrained(folder)


def figures(runs: list[dict[str, float]], cores: int) -> dict[str, Any]:
    """What the repeats say: the best speed, the worst memory."""
    best = min(runs, key=lambda run: run["seconds"])
    return {
        "cores": cores,
        "seconds": round(best["seconds"], 3),
        "processor_seconds": round(min(run["cpu"] for run in runs), 3),
        "gb_per_second": round(best["bytes"] / best["seconds"] / 1e9, 3),
        "gb_per_processor_second": round(best["bytes"] / min(run["cpu"] for run in runs) / 1e9, 3),
        "peak_over_dense": round(max(run["peak"] for run in runs) / best["bytes"], 3),
        "peak_bytes": max(int(run["peak"]) for run in runs),
    }


def measure(artifact: Path, repeats: int) -> dict[str, Any]:
    """Every way on one core and on all."""
    cores = len(os.sched_getaffinity(0))
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        dense = Path(folder) / "dense"
        unpack(artifact, dense)
        for way in WAYS:
            path = dense if way == "dense from_pretrained" else artifact
            for n in sorted({1, cores}):
                runs = [fresh(way, path, n) for _ in range(repeats + 1)][1:]  # the first one fills the page cache
                results[f"{way}, {n} core{'s' * (n > 1)}"] = figures(runs, n)
                size = int(runs[0]["bytes"])
    coded = sum(file.stat().st_size for file in artifact.glob("*.safetensors"))
    recipe = artifact / "recipe.toml"
    made_by = recipe.read_text() if recipe.is_file() else None
    return {"recipe": made_by, "dense_bytes": size, "artifact_bytes": coded, "results": results}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("artifact", type=Path)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "opening.json")
    parser.add_argument("--child", choices=(*WAYS, PACKED), help=argparse.SUPPRESS)
    parser.add_argument("--cores", type=int, default=1, help=argparse.SUPPRESS)
    options = parser.parse_args()
    os.environ["HF_HUB_OFFLINE"] = "1"
    if options.child:
        print(json.dumps(child(options.child, str(options.artifact), options.cores)))
        return
    measured = measure(options.artifact, options.repeats)
    opened = [result for name, result in measured["results"].items() if not name.startswith("dense")]
    report = {
        "command": "python bench/opening.py ARTIFACT",
        "machine": machine(),
        "versions": versions("transformers", "safetensors"),
        "bars": {"gb_per_second, 1 core": SPEED_BAR, "peak_over_dense": MEMORY_BAR},
        "reached": {
            "speed": all(result["gb_per_second"] >= SPEED_BAR for result in opened if result["cores"] == 1),
            "memory": all(result["peak_over_dense"] <= MEMORY_BAR for result in opened),
        },
        **measured,
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
