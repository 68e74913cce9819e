"""Text from a language model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rarefy.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import nn


def generate(
    module: nn.Module,
    tokenizer: Any,
    prompt: str,
    tokens: int = 64,
    *,
    stream: Callable[[str], None] | None = None,
    sample: bool = False,
    seed: int = 0,
) -> str:
    """What `module` says after `prompt`, without the prompt.

    tokenizer: a transformers tokenizer.
    tokens: at most this many; the end-of-sequence token stops earlier.
    stream: called with each piece of text as soon as it is certain; the pieces together are the result.
    sample: draw from the module's law, with `seed`, instead of taking the likeliest token.

    Raises UsageError when the module is no language model, when there is no tokenizer, or for an empty prompt.
    """
    import torch
    from transformers import GenerationConfig, TextStreamer

    if tokenizer is None:
        raise UsageError("cannot generate text", "the model has no tokenizer", "put its tokenizer files beside it")
    can_generate = getattr(module, "can_generate", None)
    if can_generate is None or not can_generate():
        raise UsageError(f"{type(module).__name__} cannot generate text", "it has no language-model head")
    inputs = tokenizer(prompt, return_tensors="pt", return_attention_mask=True)
    if inputs["input_ids"].shape[-1] == 0:
        raise UsageError("cannot generate text", "the prompt has no tokens", "give at least one word")

    pieces: list[str] = []

    class Pieces(TextStreamer):
        def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
            pieces.append(text)
            if stream is not None and text:
                stream(text)

    model: Any = module
    stop = getattr(model.generation_config, "eos_token_id", None)
    stop = tokenizer.eos_token_id if stop is None else stop
    first_stop = stop[0] if isinstance(stop, list) else stop
    # A fresh configuration: the model's own may ask for sampling, and its temperature would then only cause warnings.
    settings = {"max_new_tokens": tokens, "do_sample": sample, "eos_token_id": stop, "pad_token_id": first_stop}
    config = GenerationConfig(**settings)
    place = next(module.parameters()).device
    ids, mask = inputs["input_ids"].to(place), inputs["attention_mask"].to(place)
    streamer = Pieces(tokenizer, skip_prompt=True, skip_special_tokens=True)
    with torch.random.fork_rng(enabled=sample), torch.inference_mode():
        if sample:
            torch.manual_seed(seed)
        model.generate(input_ids=ids, attention_mask=mask, generation_config=config, streamer=streamer)
    return "".join(pieces)
