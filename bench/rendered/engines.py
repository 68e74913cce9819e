"""What was written, running in the engines that people use."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

from rendered.words import Row, interval, megabytes, on, table

TITLES = {
    "language": "One language model, SmolLM2-135M off its grid, in every engine",
    "gguf": "GGUF beside llama.cpp's own files",
    "encoder": "all-MiniLM-L6-v2 in ONNX Runtime, int8",
    "images": "ResNets in ONNX Runtime, int8",
    "loading": "Loading, files dropped from the page cache before",
}

LOST = {"spearman less dense's": "Spearman", "accuracy less dense's": "accuracy"}

MLPS = {"GatedMLP", "GELUMLP"}


def engines(result: dict[str, Any]) -> str:
    """Every part that was measured."""
    said = [part(title, result["parts"][name]) for name, title in TITLES.items() if name in result["parts"]]
    return (
        f"## In the engines\n\n`{result['command']}`: networks in turn on one machine; medians over the runs with 95 % "
        "intervals; what is over the first row's is paired. Memory is above the engine's imports.\n\n" + "\n".join(said)
    )


def part(title: str, found: dict[str, Any]) -> str:
    """Its tables, what was asked of it, and what was left out."""
    pieces = [f"**{title}**; {on(found)}", *tables(found)]
    if "seconds" in found:
        rows = [[name, interval(seconds, 2)] for name, seconds in found["seconds"].items()]
        over = ", ".join(f"{name} {interval(ratio, 2)}" for name, ratio in found["over dense"].items())
        read = f"Files were read at {found['bytes a second']['value'] / 1e6:.0f} MB a second"
        if (alike := found["alike at"]) is not None:
            read += f"; dense and artifact take as long where it is {alike / 1e6:.0f} MB a second"
        pieces.append(f"{table(['', 'seconds'], rows)}\nOver the dense: {over}. {read}.")
    pieces.append("".join(f"- {bar}: {'yes' if met else 'no'}\n" for bar, met in found["reached"].items()).rstrip())
    if found["missing"]:
        pieces.append("Left out: " + "; ".join(f"{name} ({why})" for name, why in found["missing"].items()) + ".")
    return "\n\n".join(pieces) + "\n"


def tables(found: dict[str, Any], name: str = "") -> Iterator[str]:
    """The races of a part, in order, and of each what it cost in scores."""
    if "networks" in found:
        lost = [f"{word} less dense's: {interval(found[key], 4)}." for key, word in LOST.items() if key in found]
        yield "\n\n".join([*([f"{name}:"] if name else []), race(found).rstrip(), *lost])
        return
    for inner, value in found.items():
        if inner in LOST:
            yield f"{LOST[inner]} less dense's: {interval(value, 4)}."
        elif isinstance(value, dict) and inner not in ("reached", "missing", "machine", "versions", "seconds"):
            yield from tables(value, inner if inner != "types" else name)


def race(found: dict[str, Any]) -> str:
    """Networks by row, the yardstick first."""
    writes = any("generation" in speed for speed in found["networks"].values())
    rows = []
    for name, speed in found["networks"].items():
        ratios, figures = speed["ratios"], [*(("prompt", "generation") if writes else ("speed",))]
        cells: Row = [cell for figure in figures for cell in (interval(speed[figure], 1), interval(ratios[figure], 2))]
        if writes:
            share = speed["bandwidth_share"]
            cells += [f"{1e3 * speed['first_token']['value']:.0f} ms", f"{share['value']:.0%}" if share else ""]
        size = megabytes(found["bytes"][name]) if "bytes" in found else ""
        rows.append([name, speed["mode"], *cells, megabytes(speed["resident_bytes"]), *([size] if size else [])])
    unit = next(iter(found["networks"].values()))["unit"]
    told = [
        f"prompt, {unit}/s",
        "over the first's",
        f"generation, {unit}/s",
        "over the first's",
        "first token",
        "bandwidth",
    ]
    head = ["", "", *(told if writes else [f"{unit}/s", "over the first's"]), "memory"]
    return table([*head, *(["file"] if "bytes" in found else [])], rows)


def packed(result: dict[str, Any]) -> str:
    """What a token costs in torch, dense and packed."""
    groups = (("products alone", result["products"]), ("whole network", result["network"]))
    rows = [
        [what, name, interval(row["milliseconds"], 1), interval(row["times as fast"], 2)]
        for what, found in groups
        for name, row in found.items()
    ]
    size, weights = megabytes(result["packed bytes"]), f"{result['weights'] / 1e6:.0f} M"
    return (
        "## A token in torch, dense and packed\n\n`python bench/packed.py ARTIFACT DENSE`: SmolLM2-135M off its grid "
        f"at 3 bits a weight, {size} packed. Products: {result['layers']} linear layers in turn on one row, {weights} "
        "weights; torch's kernels on noise of their shapes. Network: one token after 128, through transformers; layer "
        "by layer with every block as it is there. In turn in one process, medians with 95 % intervals, ratios "
        "paired.\n\n"
        + table(["", "", "milliseconds a token", "times as fast as dense float32"], rows)
        + f"\n{on(result)}\n"
    )


def families(result: dict[str, Any]) -> str:
    """Whose blocks a packed network computes in few calls, and how near that is."""
    ran = {name: each for name, each in result["families"].items() if "left" not in each}
    quick = {name: each for name, each in ran.items() if each["kinds"]}
    kinds = Counter(kind.removeprefix("Offset") for each in quick.values() for kind in each["kinds"])
    by_kind = ", ".join(f"{kind} in {count}" for kind, count in sorted(kinds.items()))
    most = max(each["distance"] for each in quick.values())
    both = [name for name, each in quick.items() if "Attention" in each["kinds"] and MLPS & {*each["kinds"]}]
    return (
        f"### Blocks in few calls, by family\n\n`{result['command']}`: of {len(ran)} families of transformers' causal "
        f"language models that run at a tiny size, {len(quick)} have such blocks ({by_kind}). Token by token, logits "
        f"are at most {most:.0e} of their norm from those of the families' own blocks. Attention and MLP both: "
        f"{', '.join(both)}.\n\n{on(result)}\n"
    )
