"""The demo's table and text, for the README."""

from __future__ import annotations

from typing import Any

from rendered.words import interval, megabytes, table


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
