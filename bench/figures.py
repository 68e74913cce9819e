"""Render the figures in the docs from the committed results, so that no number is typed by hand.

python bench/figures.py           writes docs/figures.md and the demo's part of README.md
python bench/figures.py --check   fails when they differ from what would be written
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "bench" / "results"
OVER = "kl over the peer's"
BEGIN, END = "<!-- demo -->\n", "<!-- /demo -->\n"

Row = list[Any]


def table(head: Row, rows: list[Row]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join("| " + " | ".join(str(cell) for cell in line) + " |\n" for line in lines)


def interval(figure: dict[str, float], digits: int) -> str:
    """`0.356 [0.344, 0.369]`."""
    return f"{figure['value']:.{digits}f} [{figure['low']:.{digits}f}, {figure['high']:.{digits}f}]"


def megabytes(count: float) -> str:
    return f"{count / 1e6:.1f} MB"


def on(result: dict[str, Any]) -> str:
    """The machine, in words."""
    machine, found = result["machine"], result["versions"]
    libraries = ", ".join(f"{name} {version}" for name, version in found.items())
    return f"{machine['cpu']}, {machine['cores']} cores; {libraries}."


def codec(result: dict[str, Any]) -> str:
    """The entropy coder beside others."""
    rows = [
        [
            *(r["source"], r["coder"], f"{r['entropy']:.4f}", f"{r['bits_per_symbol']:.4f}"),
            *(f"{r['overhead_percent']:.2f} %", f"{r['encode_GB_s']:.3f}", f"{r['decode_GB_s']:.3f}"),
        ]
        for r in result["rows"]
    ]
    head = ["source", "coder", "entropy", "bits a symbol", "over the entropy", "encode GB/s", "decode GB/s"]
    return (
        "## rANS\n\n`python bench/codec.py`: a million byte symbols, everything a file needs counted; one core. "
        "Bars: at most 1 % over the entropy, 0.2 GB/s in, 0.5 GB/s out.\n\n" + table(head, rows) + f"\n{on(result)}\n"
    )


def gptq(result: dict[str, Any]) -> str:
    """GPTQ beside llm-compressor's."""
    rows = [
        [
            *(name, c["dtype"], interval(c["kl"], 4)),
            *(f"{c['gptq_processor_s']:.0f} s", f"{c['gptq_wall_s']:.0f} s", megabytes(c["gptq_peak_bytes"])),
        ]
        for name, c in result["contestants"].items()
    ]
    head = ["", "computes in", "KL, nats a token", "processor time", "wall time", "peak memory"]
    pairs = "".join(f"- {name}: {interval(d, 4)} nats\n" for name, d in result["paired differences"].items())
    return (
        f"## GPTQ beside llm-compressor\n\n`python bench/gptq.py --peer-python PEER/bin/python`: {result['network']}; "
        f"{result['grid']}; calibrated on {result['calibration']}, measured on {result['evaluation']}. All "
        "weights are measured dense by the same code.\n\n"
        + table(head, rows)
        + "\nPaired differences, 95 % intervals:\n\n"
        + pairs
        + f"\n{result.get('note', '')}\n\n"
        + on(result)
        + "\n"
    )


PLANES = {"whole": "whole file", "linear": "linear layers alone"}


def plane(result: dict[str, Any]) -> str:
    """Rarefy and its peers on the plane of rate and distortion: a language model."""
    said = (
        f"## The plane\n\n`python bench/plane.py --peers PEERS`: {result['network']}; calibrated on "
        f"{result['calibration']}; measured on {', '.join(result['evaluation'].values())}."
    )
    return planes(result, "plane", said, "KL")


def encoder(result: dict[str, Any]) -> str:
    """Rarefy and its peers on the plane of rate and distortion: a sentence encoder."""
    said = (
        f"## The plane of a sentence encoder\n\n`python bench/encoder.py --peers PEERS`: {result['network']}; "
        f"calibrated on {result['calibration']}; measured on {', '.join(result['evaluation'].values())}. Spearman: "
        f"correlation with people's scores, less the original's {100 * result['original']['spearman']:.2f}, in "
        "hundredths, paired."
    )
    return planes(result, "encoder", said, "1 - cosine")


def planes(result: dict[str, Any], stem: str, said: str, distortion: str) -> str:
    """Plots, points, and the peers' points at which Rarefy's are not far enough ahead."""
    texts, scored = list(result["evaluation"]), "spearman less the original's"
    rows = []
    for entrant, point in result["points"].items():
        whole, linear, cost = point["whole"], point["linear"], point["cost"]
        score = [] if scored not in whole else [interval(times(whole[scored], 100), 2)]
        rows.append(
            [
                *(entrant, megabytes(whole["bytes"]), f"{whole['bpw']:.3f}"),
                f"{point['predicted']['nats']:.4f}" if "predicted" in point else "",
                *(interval(whole["kl"][text], 4) if text in whole["kl"] else "" for text in texts),
                *score,
                f"{linear['bpw']:.3f}",
                interval(linear["kl"][texts[0]], 4) if linear["kl"] else "",
                f"{cost['total_processor_s']:.0f} s{' (resumed)' if cost.get('resumed') else ''}",
                megabytes(cost["total_peak_bytes"]),
            ]
        )
    columns = ["", "whole file", "bits a weight", "predicted", *(f"{distortion}, {text}" for text in texts)]
    columns += ["Spearman"] if "original" in result else []
    columns += ["linear layers, bits a weight", f"{distortion}, {texts[0]}", "processor time", "peak memory"]
    shown = "".join(f"![{title}]({stem}-{plane}.svg)\n\n" for plane, title in PLANES.items())
    behind = ""
    for plane, title in PLANES.items():
        against = result["against"][plane]
        short = [shortfall(peer, found) for peer, found in against.items() if not found["holds"]]
        behind += f"- {title}: {len(against) - len(short)} of {len(against)}; not {', '.join(short) or 'none'}\n"
    missing = f"\nNot measured yet: {', '.join(result['missing'])}.\n" if result["missing"] else ""
    return (
        f"{said} Peers quantize with their own tools and write their own files; all are measured dense by the "
        "same code. Linear layers alone: embedding and norms are the original's, 8 bits a weight for all.\n\n"
        + shown
        + table(columns, rows)
        + f"\nPoints of peers at which a file of Rarefy's that is no larger has at most half the {distortion} (upper "
        "end of the paired 95 % interval):\n\n" + behind + missing + f"\n{on(result)}\n"
    )


def shortfall(peer: str, found: dict[str, Any]) -> str:
    """A peer's point at which the bar is missed, and by how much."""
    if found["rarefy"] is None:
        return f"{peer} (no file of Rarefy's is as small)"
    return f"{peer} ({interval(found[OVER], 2)} of it, {found['rarefy']})"


def times(figure: dict[str, float], factor: float) -> dict[str, float]:
    """A figure in other units."""
    return {key: value * factor for key, value in figure.items()}


def opening(result: dict[str, Any]) -> str:
    """Opening an artifact."""
    rows = [
        [way, f"{r['gb_per_second']:.2f}", f"{r['gb_per_processor_second']:.2f}", f"{r['peak_over_dense']:.3f}"]
        for way, r in result["results"].items()
    ]
    head = ["way", "GB/s of restored float32", "GB per processor second", "peak memory over the dense network"]
    return (
        f"## Opening an artifact\n\n`{result['command']}`: {megabytes(result['dense_bytes'])} of float32 from "
        f"{megabytes(result['artifact_bytes'])}. Bars: 0.3 GB/s a core, peak memory 1.1.\n\n"
        + table(head, rows)
        + "\n"
        + on(result)
        + "\n"
    )


def squeezenet(result: dict[str, Any]) -> str:
    """Deep Compression's own file, smaller."""
    coders = {"default": "default (rANS)", "context": "context", "archive": "archive (the smallest for each stream)"}
    rows = []
    for name, r in result.items():
        layout, _, coder = name.partition(" ")
        if coder in coders:
            size = f"{r['bytes']:,}"
            rows.append(
                [
                    layout,
                    coders[coder],
                    size,
                    f"-{100 * r['less']:.1f} %",
                    f"{r['write_s']:.1f} s",
                    f"{r['read_s']:.1f} s",
                ]
            )
    return (
        "## SqueezeNet as Deep Compression published it\n\n`python bench/squeezenet.py`: the same "
        f"{result['weights']:,} weights, {result['nonzero']:,} of them not zero, and biases, in every bit as the "
        f"author's file of {result['published_bytes']:,} bytes has them (codebooks of 256, 4-bit gaps between places). "
        "Whole files; each weight is an index into its layer's codebook.\n\n"
        + table(["layout", "coder", "bytes", "less", "written in", "read in"], rows)
        + f"\n{on(result)}\n"
    )


def deep_compression(result: dict[str, Any]) -> str:
    """Deep Compression's tables, and what goes past them."""
    titles = {"lenet300": "LeNet-300-100", "lenet5": "LeNet-5", "resnet20": "ResNet-20, batch normalization folded"}
    head = ["", "whole file", "ratio", "test error", "KL to the original, nats an image", "seeds"]
    parts = []
    for network, title in titles.items():
        ours, rows = result["rows"][network], []
        for by, size, ratio, error in result["published"][network]:
            rows.append([by, f"{size / 1e3:.2f} KB" if size else "", f"{ratio}x", f"{error:.2f} %", "", ""])
        for name, row in ours.items():
            means, run = row["summary"], row["runs"][0]
            cells = [f"{spread(means['bytes'], 1e-3, 2)} KB", f"{spread(means['ratio'], 1, 1)}x"]
            if len(row["runs"]) == 1:
                cells += [f"{interval(run['error'], 2)} %", interval(run["kl"], 4)]
            else:
                cells += [f"{spread(means['error'], 1, 2)} %", spread(means["kl"], 1, 4)]
            rows.append([f"**{name}**", *cells, len(row["runs"])])
        if ours:
            run = next(iter(ours.values()))["runs"][0]
            worse = "; ".join(f"{name} {interval(row['runs'][0]['worse'], 2)}" for name, row in ours.items())
            said = (
                f"The original: {run['original_error']['value']:.2f} %. Points worse, paired, first seed: {worse}.\n\n"
            )
            parts.append(f"**{title}**\n\n{table(head, rows)}\n{said}")
    missing = f"Not measured yet: {'; '.join(result['missing'])}.\n\n" if result["missing"] else ""
    return (
        "## Deep Compression's tables\n\n`make bench-deep-compression`: from Caffe's LeNets and a CIFAR-10 ResNet; "
        "ours in bold, mean ± standard deviation over seeds, of one seed with 95 % interval. Bytes are the whole "
        "weight file. Settings were chosen on 5,000 training images that no recipe trains on; the originals have seen "
        "them. \\*: quoted from memory.\n\n" + "".join(parts) + missing + f"{on(result)}\n"
    )


def spread(found: dict[str, Any], unit: float, digits: int) -> str:
    """`8.51 ± 0.04`, in units."""
    deviation = "" if found["deviation"] is None else f" ± {found['deviation'] * unit:.{digits}f}"
    return f"{found['mean'] * unit:.{digits}f}{deviation}"


def fuzz(result: dict[str, Any]) -> str:
    """What fuzzing found."""
    what = {"kernels": "C++ kernels, libFuzzer with AddressSanitizer and UBSan", "readers": "Python readers, Atheris"}
    rows = [
        [text, f"{r['seconds'] / 60:.0f}", f"{r['executions']:,}", r["edges"], r["features"], r["corpus"], r["crashes"]]
        for text, r in ((text, result[name]) for name, text in what.items())
    ]
    head = ["what", "minutes", "executions", "edges", "features", "corpus", "crashes"]
    return (
        "## Fuzzing\n\n`python bench/fuzz/run.py kernels` and `readers`, coverage-guided, in slices; the tests replay "
        "a small corpus of the same coverage.\n\n" + table(head, rows) + f"\n{on(result)}\n"
    )


def demo(found: dict[str, Any]) -> str:
    """The demo's table and text, for the README."""
    weights, gguf, foreseen = found["weights"], megabytes(found["gguf"]["without_tokenizer"]), found["predicted"]
    before = f"{megabytes(2 * weights)} at 2 bytes a weight; its Q4_1 GGUF {gguf}"
    memory = [megabytes(held["peak_rss_bytes"]) for held in (foreseen, found)]
    rows = [
        ["weight files", before, megabytes(foreseen["bytes"]), megabytes(found["bytes"])],
        ["bits a weight", "16", "", f"{found['bpw']:.3f}"],
        ["perplexity", interval(found["reference"]["perplexity"], 2), "", interval(found["perplexity"], 2)],
        ["KL to the original, nats a token", "0", f"{foreseen['nats']:.3f}", interval(found["kl"], 4)],
        ["memory at most", "", *memory],
        ["compressed in", "", "", f"{found['seconds']:.0f} s"],
    ]
    quotes = "".join(f"> **{name}:** {' '.join(text.split())}\n>\n" for name, text in found["continued"].items())
    return (
        f"`make demo` on 2 cores, `rarefy compress MODEL OUT {' '.join(found['budget'])}`: SmolLM2-135M-Instruct "
        "(taken off the grid that its GGUF was rounded to), whole file, embeddings and all; measured on "
        f"{found['data']}, {found['blocks']} blocks of 512 tokens:\n\n"
        + table(["", "before", "predicted", "after"], rows)
        + f"\nBoth continue *{found['prompt']}*\n\n"
        + quotes.removesuffix(">\n")
        + "\n"
    )


RENDERED: dict[str, Callable[[dict[str, Any]], str]] = {
    "codec": codec,
    "squeezenet": squeezenet,
    "gptq": gptq,
    "plane": plane,
    "encoder": encoder,
    "opening": opening,
    "deep_compression": deep_compression,
    "fuzz": fuzz,
}


def pages() -> dict[Path, str]:
    """Every rendered page, whole."""
    parts = [
        render(json.loads((RESULTS / f"{name}.json").read_text()))
        for name, render in RENDERED.items()
        if (RESULTS / f"{name}.json").exists()
    ]
    head = "# Figures\n\nRendered by `python bench/figures.py` from `bench/results/`, each with its command.\n\n"
    found = {ROOT / "docs" / "figures.md": head + "\n".join(parts)}
    if (RESULTS / "demo.json").exists():
        readme = (ROOT / "README.md").read_text(encoding="utf-8")
        before, rest = readme.split(BEGIN)
        shown = demo(json.loads((RESULTS / "demo.json").read_text()))
        found[ROOT / "README.md"] = before + BEGIN + shown + END + rest.split(END)[-1]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    for path, text in pages().items():
        if check and (not path.exists() or path.read_text(encoding="utf-8") != text):
            sys.exit(f"{path.name} is not what bench/results says: run python bench/figures.py")
        if not check:
            path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
