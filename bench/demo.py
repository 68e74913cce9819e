"""The main job on a real language model: compress SmolLM2-135M, measure what it cost, let both networks speak.

    make demo

Calibrates on one part of the text that Python itself carries (pydoc_data.topics) and measures on the other. What it
made stays in demo/: a second run reuses it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

os.environ |= {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "TQDM_DISABLE": "1"}  # before transformers is imported

from rich.console import Console
from rich.panel import Panel
from rich.table import Table

import networks
import rarefy
from machine import machine, versions
from rarefy.engines.generate import generate
from rarefy.plan.data import evaluation, tokenizer_of
from rarefy.report.progress import showing
from rarefy.threads import quick_in
from rarefy.units import human

ROOT = Path(os.environ.get("RAREFY_DEMO", Path(__file__).resolve().parent.parent / "demo"))
BUDGET = ["--bpw", "3"]
SETTINGS = ["--blocks", "36", "--dtype", "bfloat16" if quick_in("bfloat16") else "float32"]
PROMPT = "The best way to learn a new language is"
TOKENS = 40


def main() -> None:
    console = Console()
    with console.status("making the network: SmolLM2-135M, off the grid that its GGUF was rounded to"):
        source = networks.smollm2(ROOT)
    out = ROOT / "smollm2-rarefied"
    made = compressed(source, out)
    with showing() as progress:
        found = measured(source, out, made, progress)
    console.print(table(found))
    for name, text in found["continued"].items():
        console.print(Panel(text, title=name, title_align="left"))
    console.print(f"The artifact is {out}. It opens with transformers after [bold]import rarefy[/]:")
    console.print(f'  AutoModelForCausalLM.from_pretrained("{out}")', highlight=False)


def compressed(source: Path, out: Path) -> dict[str, Any]:
    """What `rarefy compress` says of the run; in a process of its own, so that its peak memory is its own."""
    command = [sys.executable, "-m", "rarefy.cli", "compress", source, out, *BUDGET, *SETTINGS, "--json"]
    said: dict[str, Any] = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    return said


def measured(source: Path, out: Path, made: dict[str, Any], progress: Any) -> dict[str, Any]:
    """What the table says; kept beside the artifact, so that it is measured once."""
    kept = ROOT / "demo.json"
    key = json.loads((out / "manifest.json").read_text())["run"]["key"]
    if kept.exists():
        found = json.loads(kept.read_text())
        if found["key"] == key:
            return found
    before, after = rarefy.open(source), rarefy.open(out)
    original, compressed = before.module(), after.module()
    data = evaluation(before, [], blocks=64)
    with progress.task(f"measuring on {data.name}", len(data.ids)) as advance:
        seen = [0]

        def tick(done: int, _total: int) -> None:
            advance(done - seen[0])
            seen[0] = done

        figures = rarefy.evaluate(compressed, data, against=original, progress=tick)
    tokenizer = tokenizer_of(before)
    continued = {
        name: generate(module, tokenizer, PROMPT, tokens=TOKENS)
        for name, module in (("before", original), ("after", compressed))
    }
    found = {
        "key": key,
        **{name: made[name] for name in ("weights", "bytes", "bpw", "seconds", "peak_rss_bytes", "predicted")},
        "gguf": networks.gguf_bytes(networks.smollm2_gguf()),
        "data": data.name,
        "prompt": PROMPT,
        "budget": BUDGET,
        "machine": machine(),
        "versions": versions("transformers"),
        "continued": continued,
        **figures.as_json(),
    }
    kept.write_text(json.dumps(found, indent=1) + "\n")
    return found


def table(found: dict[str, Any]) -> Table:
    """One table: what it was, what it is, what it cost."""
    shown = Table(title="SmolLM2-135M-Instruct", title_justify="left")
    shown.add_column("")
    shown.add_column("before", justify="right")
    shown.add_column("predicted", justify="right")
    shown.add_column("after", justify="right")
    weights, foreseen = found["weights"], found["predicted"]
    before = f"{human(2 * weights)} (2 bytes a weight)"
    shown.add_row("weight files", before, human(foreseen["bytes"]), human(found["bytes"]))
    gguf = human(found["gguf"]["without_tokenizer"])
    shown.add_row("", f"{gguf} (its Q4_1 GGUF)", "", f"{2 * weights / found['bytes']:.2f}x smaller")
    shown.add_row("bits a weight", "16", "", f"{found['bpw']:.3f}")
    shown.add_row("perplexity", interval(found["reference"]["perplexity"], 2), "", interval(found["perplexity"], 2))
    shown.add_row("KL to the original, nats a token", "0", f"{foreseen['nats']:.3f}", interval(found["kl"], 4))
    shown.add_row("compressed in", "", "", f"{found['seconds']:.0f} s")
    shown.add_row("memory at most", "", human(foreseen["peak_rss_bytes"]), human(found["peak_rss_bytes"]))
    shown.caption = f"Measured on {found['data']}, {found['blocks']} blocks of 512 tokens; intervals are 95 %."
    return shown


def interval(figure: dict[str, float], digits: int) -> str:
    return f"{figure['value']:.{digits}f} [{figure['low']:.{digits}f}, {figure['high']:.{digits}f}]"


if __name__ == "__main__":
    main()
