"""What files take: coders, other tools' files, opening, and what hostile ones found."""

from __future__ import annotations

from typing import Any

from rendered.words import megabytes, on, table


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


def memory(result: dict[str, Any]) -> str:
    """Networks larger than memory."""
    rows = [
        [
            *(r["recipe"], r["depth"], megabytes(r["original_bytes"]), megabytes(r["peak_bytes"])),
            f"{r['processor_seconds']} s",
        ]
        for r in result["runs"]
    ]
    net = result["network"]
    grows = "; ".join(f"{recipe} {ratio:.3f}" for recipe, ratio in result["grows"].items())
    return (
        f"## Networks larger than memory\n\n`python bench/memory.py --full --out bench/results/memory.json`: random "
        f"Llamas in bf16, hidden {net['hidden_size']}, feed-forward {net['intermediate_size']}, vocabulary "
        f"{net['vocab_size']:,}; {result['tokens'][0]} calibration blocks of {result['tokens'][1]} tokens. Bar: "
        f"{megabytes(result['bar'])} resident at most.\n\n"
        + table(["", "blocks", "original", "peak memory", "processor time"], rows)
        + f"\nPeak of the deepest over that of the shallowest: {grows}.\n\n{on(result)}\n"
    )
