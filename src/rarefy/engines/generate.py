"""Text from a language model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from rarefy.engines.contenders import ENGINES
from rarefy.engines.workers import Asked, Worker
from rarefy.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import nn

    from rarefy.engines.contenders import Contender


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
    from transformers import TextStreamer

    _refuse_silent(module, tokenizer)
    inputs = tokenizer(prompt, return_tensors="pt", return_attention_mask=True)
    _refuse_empty(inputs["input_ids"].shape[-1])

    pieces: list[str] = []

    class Pieces(TextStreamer):
        def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
            pieces.append(text)
            if stream is not None and text:
                stream(text)

    model: Any = module
    config = _settings(model, tokenizer, tokens, sample)
    place = next(module.parameters()).device
    ids, mask = inputs["input_ids"].to(place), inputs["attention_mask"].to(place)
    streamer = Pieces(tokenizer, skip_prompt=True, skip_special_tokens=True)
    with torch.random.fork_rng(enabled=sample), torch.inference_mode():
        if sample:
            torch.manual_seed(seed)
        model.generate(input_ids=ids, attention_mask=mask, generation_config=config, streamer=streamer)
    return "".join(pieces)


def written(
    each: Contender, python: str, prompt: str, tokens: int = 64, *, threads: int = 1, device: str = "cpu"
) -> str:
    """What a network says after `prompt` in another engine, the likeliest tokens, up to the one that ends a text.

    python: an interpreter that has the engine.

    Raises UsageError when there is no tokenizer, for an empty prompt and for a network that writes nothing, and
    RarefyError when the engine does not run the network.
    """
    # Text of its own is room enough for what an engine makes of it: no token is less than a byte.
    tokenizer = None if ENGINES[each.engine].tokenizes else _tokenizer(Path(each.source))
    ids = [] if tokenizer is None else list(tokenizer(prompt)["input_ids"])
    _refuse_empty(len(prompt if tokenizer is None else ids))
    room = 1 + len(prompt.encode()) if tokenizer is None else len(ids)
    with Worker(each, python, Asked(room, tokens, repeat=1, threads=threads, device=device)) as worker:
        worker.load()
        if worker.facts["unit"] != "tokens":
            raise UsageError(f"{each.name} writes no text", f"it is measured in {worker.facts['unit']}")
        if tokenizer is None:
            return worker.text(prompt, tokens)
        found = list(worker.run([ids], tokens).written)
    end = found.index(tokenizer.eos_token_id) if tokenizer.eos_token_id in found else None
    # Of what comes after a prompt some tokenizers drop the first blank: decoded with it, all of it stays.
    return str(tokenizer.decode(ids + found[:end])[len(tokenizer.decode(ids)) :])


def _refuse_empty(tokens: int) -> None:
    if not tokens:
        raise UsageError("cannot generate text", "the prompt has no tokens", "give at least one word")


def _tokenizer(source: Path) -> Any:
    """That of a directory, or of the one that a file is in. Raises UsageError."""
    import transformers

    folder = source if source.is_dir() else source.parent
    try:
        return transformers.AutoTokenizer.from_pretrained(folder)
    except Exception as error:
        raise UsageError(f"the tokenizer of {source} cannot be loaded", str(error).splitlines()[0]) from None


def continuations(
    module: nn.Module, tokenizer: Any, prompts: Sequence[str], tokens: int
) -> tuple[list[tuple[list[int], bool]], int]:
    """The likeliest tokens after each of several prompts, all at once.

    tokenizer: as for `generate`; where it has a chat template, a prompt is a user's turn.
    tokens: at most this many for each, fewer where the network reads no further.

    Returns, for each prompt, the new token ids without the one that ends the text and whether there was one; and how
    many tokens were allowed. Raises UsageError as `generate` does, and for prompts that leave no room.
    """
    import torch

    _refuse_silent(module, tokenizer)
    asked = [_asked(tokenizer, prompt) for prompt in prompts]
    width = max(map(len, asked))
    model: Any = module
    allowed = min(tokens, int(getattr(model.config, "max_position_embeddings", None) or width + tokens) - width)
    if min(map(len, asked)) == 0 or allowed < 1:
        raise UsageError("cannot generate text", f"the prompts have up to {width} tokens", "give shorter prompts")
    ids, mask = torch.zeros(len(asked), width, dtype=torch.int64), torch.zeros(len(asked), width, dtype=torch.int64)
    for row, known in enumerate(asked):  # padded on the left, so that all go on at the same position
        ids[row, width - len(known) :] = torch.tensor(known)
        mask[row, width - len(known) :] = 1
    place = next(module.parameters()).device
    config = _settings(model, tokenizer, allowed, False)
    with torch.inference_mode():
        out = model.generate(input_ids=ids.to(place), attention_mask=mask.to(place), generation_config=config)
    stops = config.eos_token_id
    stops = set(stops if isinstance(stops, list) else [stops])
    found = []
    for row in out[:, width:].tolist():
        end = next((i for i, token in enumerate(row) if token in stops), None)
        found.append((row[:end], end is not None))
    return found, allowed


def _refuse_silent(module: nn.Module, tokenizer: Any) -> None:
    if tokenizer is None:
        raise UsageError("cannot generate text", "the model has no tokenizer", "put its tokenizer files beside it")
    can_generate = getattr(module, "can_generate", None)
    if can_generate is None or not can_generate():
        raise UsageError(f"{type(module).__name__} cannot generate text", "it has no language-model head")


def _asked(tokenizer: Any, prompt: str) -> list[int]:
    if getattr(tokenizer, "chat_template", None) is None:
        return list(tokenizer(prompt)["input_ids"])
    turn = [{"role": "user", "content": prompt}]
    text = tokenizer.apply_chat_template(turn, add_generation_prompt=True, tokenize=False)
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def _settings(model: Any, tokenizer: Any, tokens: int, sample: bool) -> Any:
    """Greedy or sampled, whatever the model's own configuration asks for; its temperature would only cause warnings."""
    from transformers import GenerationConfig

    stop = getattr(model.generation_config, "eos_token_id", None)
    stop = tokenizer.eos_token_id if stop is None else stop
    first_stop = stop[0] if isinstance(stop, list) else stop
    return GenerationConfig(max_new_tokens=tokens, do_sample=sample, eos_token_id=stop, pad_token_id=first_stop)
