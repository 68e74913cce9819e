"""`rarefy bench`: how fast networks run, in the engines that run them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rarefy.cli.options import DATA, HARDWARE, Device, DType, Json, Precision, Threads, examples
from rarefy.errors import UsageError

EXAMPLES = examples(
    "rarefy bench SmolLM2-135M out",
    "rarefy bench SmolLM2-135M SmolLM2-135M@transformers:bfloat16 out@packed",
    "rarefy bench llama/model.gguf out@packed --python LLAMA_ENV/bin/python --json",
    "rarefy bench resnet.onnx nets:resnet@resnet.safetensors --data images.npz --batch 32",
)


def bench(
    networks: Annotated[
        list[str],
        typer.Argument(
            metavar="MODEL...",
            help=r"Each a directory, a .gguf, an .onnx, an artifact, or pkg.mod:factory\[@weights.safetensors]. "
            "@ENGINE behind it chooses transformers, packed, onnx or llama.cpp; without it what MODEL is does.",
            show_default=False,
        ),
    ],
    prompt: Annotated[int, typer.Option(min=1, metavar="N", help="Tokens that are read.", rich_help_panel=DATA)] = 128,
    generate: Annotated[
        int, typer.Option(min=1, metavar="N", help="Tokens that language models write.", rich_help_panel=DATA)
    ] = 64,
    batch: Annotated[
        int, typer.Option(min=1, metavar="N", help="Texts or examples at once.", rich_help_panel=DATA)
    ] = 1,
    data: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="An .npz with x, for networks that read arrays.",
            rich_help_panel=DATA,
            show_default=False,
        ),
    ] = None,
    repeat: Annotated[
        int, typer.Option(min=6, metavar="N", help="How often each runs; below 6 a median has no interval.")
    ] = 10,
    python: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FILE",
            help="The interpreter of an environment that has llama-cpp-python or onnxruntime, where this one has not. "
            "Repeatable.",
            rich_help_panel=HARDWARE,
            show_default=False,
        ),
    ] = None,
    threads: Threads = None,
    device: Device = "cpu",
    dtype: DType = Precision.float32,
    json: Json = False,
) -> None:
    """Run networks in turn, over and over: tokens, sentences or examples a second, wait for the first token, memory.

    Each network has a process of its own. Figures are medians with 95 % intervals; ratios are paired, repetition by
    repetition. The share of memory bandwidth is that of the bytes which a token must touch.
    """
    from rarefy.cli.session import session
    from rarefy.engines.contenders import contender
    from rarefy.engines.workers import Asked
    from rarefy.measure.speed import race
    from rarefy.report.benched import Benched
    from rarefy.report.console import note, print_json, show
    from rarefy.report.progress import showing

    if len(set(networks)) < len(networks):
        raise UsageError("a network is named twice", remedy="name each once")
    if data is not None and not data.is_file():
        raise UsageError(f"{data} does not exist")
    contenders = [contender(name, dtype.value) for name in networks]
    with session(threads, device) as count, showing() as progress:
        asked = Asked(prompt, generate, batch, repeat, count, device, None if data is None else str(data))
        found = Benched(race(contenders, asked, python or [], progress), asked)
    note(found.line())
    if json:
        print_json(found.to_json())
    else:
        show(found.table())


VERB = bench
