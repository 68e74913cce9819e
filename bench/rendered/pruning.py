"""Pruning: small networks, as Deep Compression's tables have them, and a language model."""

from __future__ import annotations

from typing import Any

from rendered.words import interval, megabytes, on, spread, table


def deep_compression(result: dict[str, Any]) -> str:
    """Deep Compression's tables, and what goes past them."""
    titles = {
        "lenet300": "LeNet-300-100",
        "lenet5": "LeNet-5",
        "resnet20": "ResNet-20, batch normalization folded; 1,000 test images",
    }
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
        "them. ResNet-20's rows were set up one after another, each when the test errors of those before were known. "
        "\\*: quoted from memory.\n\n" + "".join(parts) + missing + f"{on(result)}\n"
    )


def pruning(result: dict[str, Any]) -> str:
    """One-shot pruning beside llm-compressor's, and what it is worth before a quantizer."""
    rows = [
        [name, megabytes(c["bytes"]["file"]) if "bytes" in c else "dense", interval(c["kl"], 4)]
        for name, c in result["contestants"].items()
    ]
    pairs = "".join(f"- {name}: {interval(d, 4)}\n" for name, d in result["paired differences"].items())
    missing = f"\nNot measured yet: {'; '.join(result['missing'])}.\n" if result["missing"] else ""
    return (
        f"## Pruning in one shot\n\n`python bench/pruning.py --peer-python PEER/bin/python`: {result['network']}; "
        f"calibrated on {result['calibration']}, measured on {result['evaluation']}. Linear layers lose half their "
        "weights, anywhere or two of every four; pruned and then quantized, beside quantize.entropy alone in as many "
        "bytes.\n\n"
        + table(["", "whole file", "KL, nats a token"], rows)
        + "\nPaired differences, nats:\n\n"
        + pairs
        + missing
        + f"\n{on(result)}\n"
    )
