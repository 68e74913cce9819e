"""`rarefy generate`: let a language model go on."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from rarefy.cli.options import HARDWARE, Device, DType, Precision, Seed, Threads, examples
from rarefy.errors import UsageError

EXAMPLES = examples(
    'rarefy generate out "Once upon a time"',
    'rarefy generate out "The capital of France" --tokens 20 --sample',
    'rarefy generate gguf@llama.cpp "Once upon a time" --python LLAMA_ENV/bin/python',
)


def generate(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="A directory, a .gguf, or an artifact, restored by Rarefy. @ENGINE behind it (transformers, packed, "
            "onnx, llama.cpp) runs it there; folders that only such an engine opens run there anyway.",
            show_default=False,
        ),
    ],
    prompt: Annotated[str, typer.Argument(metavar="PROMPT", help="What to go on from.", show_default=False)],
    tokens: Annotated[int, typer.Option(min=1, metavar="N", help="At most so many new tokens.")] = 64,
    sample: Annotated[
        bool, typer.Option("--sample", metavar="", help="Draw tokens instead of taking the likeliest.")
    ] = False,
    packed: Annotated[
        bool, typer.Option("--packed", metavar="", help="Keep an artifact's weights at 4 or 8 bits in memory.")
    ] = False,
    python: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FILE",
            help="The interpreter of an environment that has the engine, where this one has not. Repeatable.",
            rich_help_panel=HARDWARE,
            show_default=False,
        ),
    ] = None,
    seed: Seed = 0,
    device: Device = "cpu",
    dtype: DType = Precision.float32,
    threads: Threads = None,
) -> None:
    """Continue a prompt with a language model; the text goes to stdout as it comes, without the prompt."""
    from rarefy.cli.session import dtype_of, opened, session
    from rarefy.engines.contenders import contender, interpreter
    from rarefy.engines.generate import generate as continued
    from rarefy.engines.generate import written
    from rarefy.plan.data import tokenizer_of
    from rarefy.report.progress import showing

    each = contender(model, dtype.value)
    if each.chosen or (each.engine != "transformers" and not model.endswith(".gguf")):
        if sample or packed:
            raise UsageError(f"{model} is run by its engine", "--sample and --packed are Rarefy's", "leave them out")
        with session(threads, device) as count, showing() as progress, progress.task(f"running {each.engine}", 0):
            text = written(each, interpreter(each.engine, python or []), prompt, tokens, threads=count, device=device)
        _write(text + "\n")
        return
    with session(threads, device, "float32" if packed else dtype.value):
        with showing() as progress:
            network = opened(model, progress)
            tokenizer = tokenizer_of(network)
            with progress.task("restoring weights", 0):
                module = network.packed(device) if packed else network.module(device, dtype_of(dtype.value))
        if sys.stdout.isatty():
            typer.secho(prompt, nl=False, dim=True, err=True)
        continued(module, tokenizer, prompt, tokens, stream=_write, sample=sample, seed=seed)
    _write("\n")


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


VERB = generate
