"""Draw the planes of bench/results/{plane,encoder}.json: docs/plane-whole.svg and three more. Needs matplotlib.

python bench/plot.py
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("svg")

from matplotlib import pyplot as plt

ROOT = Path(__file__).resolve().parent.parent
PLANES = {"whole": "whole file", "linear": "linear layers alone, 8-bit embedding for all"}
DISTORTIONS = {"plane": "KL to the original, nats a token", "encoder": "1 - cosine"}
MARKS = {"rarefy": "o-", "llamacpp": "s:", "gptqmodel": "^:", "llmcompressor": "v", "hqq": "D:", "bitsandbytes": "P"}
"""A family of entrants, and how its points are drawn."""


def families(points: dict[str, Any], plane: str, text: str) -> dict[str, list[tuple[float, dict[str, float], str]]]:
    """By family: (bits a weight, distortion with its interval, the point's name), by rising rate."""
    found: dict[str, list[tuple[float, dict[str, float], str]]] = {}
    for name, point in points.items():
        family, _, label = name.partition("-")
        if kl := point[plane]["kl"].get(text):
            found.setdefault(family, []).append((point[plane]["bpw"], kl, label))
    return {family: sorted(rows, key=lambda row: row[0]) for family, rows in found.items()}


def draw(result: dict[str, Any], plane: str, distortion: str, to: Path) -> None:
    """One plane as SVG, the same bytes for the same points."""
    figure, axes = plt.subplots(figsize=(7.5, 4.8))
    for family, rows in families(result["points"], plane, next(iter(result["evaluation"]))).items():
        rate, middle = [row[0] for row in rows], [row[1]["value"] for row in rows]
        spread = [[m - r[1]["low"] for m, r in zip(middle, rows, strict=True)]]
        spread.append([r[1]["high"] - m for m, r in zip(middle, rows, strict=True)])
        axes.errorbar(rate, middle, spread, fmt=MARKS[family], label=family, markersize=5, capsize=2, linewidth=1)
        if family != "rarefy":
            for x, y, (_, _, label) in zip(rate, middle, rows, strict=True):
                axes.annotate(label, (x, y), textcoords="offset points", xytext=(5, 4), fontsize=7)
    axes.set_yscale("log")
    axes.set_xlabel(f"bits a weight, {PLANES[plane]}")
    axes.set_ylabel(distortion)
    axes.grid(visible=True, which="both", alpha=0.25)
    axes.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(to, metadata={"Date": None})
    plt.close(figure)


def main() -> None:
    mpl.rcParams["svg.hashsalt"] = "rarefy"  # or every run draws other names
    for name, distortion in DISTORTIONS.items():
        file = ROOT / "bench" / "results" / f"{name}.json"
        if file.exists():
            for plane in PLANES:
                draw(json.loads(file.read_text()), plane, distortion, ROOT / "docs" / f"{name}-{plane}.svg")


if __name__ == "__main__":
    main()
