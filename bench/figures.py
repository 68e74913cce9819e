"""Render the figures in the docs from the committed results, so that no number is typed by hand.

python bench/figures.py           writes docs/figures.md and some parts of README.md
python bench/figures.py --check   fails when they differ from what would be written
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rendered.demo import demo
from rendered.engines import engines, families, packed
from rendered.files import codec, fuzz, memory, opening, squeezenet
from rendered.pruning import deep_compression, pruning
from rendered.quantizing import ablation, encoder, gptq, headline, plane

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "bench" / "results"

RENDERED: dict[str, Callable[[dict[str, Any]], str]] = {
    "plane": plane,
    "encoder": encoder,
    "ablation": ablation,
    "gptq": gptq,
    "engines": engines,
    "packed": packed,
    "families": families,
    "deep_compression": deep_compression,
    "pruning": pruning,
    "squeezenet": squeezenet,
    "codec": codec,
    "opening": opening,
    "memory": memory,
    "fuzz": fuzz,
}
"""By the name of a result, in the order of the page."""

README: dict[str, Callable[[dict[str, Any]], str]] = {"plane": headline, "demo": demo}
"""By the name of a result, what the README shows of it between two comments of that name."""


def pages() -> dict[Path, str]:
    """Every rendered page, whole."""
    parts = [
        render(json.loads((RESULTS / f"{name}.json").read_text()))
        for name, render in RENDERED.items()
        if (RESULTS / f"{name}.json").exists()
    ]
    head = "# Figures\n\nRendered by `python bench/figures.py` from `bench/results/`, each with its command.\n\n"
    found = {ROOT / "docs" / "figures.md": head + "\n".join(parts)}
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for name, render in README.items():
        if (RESULTS / f"{name}.json").exists():
            before, rest = readme.split(f"<!-- {name} -->\n")
            shown = render(json.loads((RESULTS / f"{name}.json").read_text()))
            readme = before + f"<!-- {name} -->\n{shown}<!-- /{name} -->\n" + rest.split(f"<!-- /{name} -->\n")[-1]
    found[ROOT / "README.md"] = readme
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
