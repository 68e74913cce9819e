"""A tokenizer as GGUF's metadata hold it: tokens with their types, scores or merges, special tokens, chat template."""

from __future__ import annotations

import json
import logging
import re
from typing import TYPE_CHECKING, Any, Final

from rarefy.errors import UsageError

if TYPE_CHECKING:
    from pathlib import Path

_CASES: Final = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
_REST: Final = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"

PATTERNS: Final = {_CASES + r"\p{N}{1,3}" + _REST: "llama-bpe", _CASES + r"\p{N}" + _REST: "qwen2"}
"""How text is cut before merging, by the pattern in tokenizer.json: llama.cpp knows its own patterns by name alone."""

_BYTE: Final = re.compile(r"<0x[0-9A-F]{2}>")


def add(writer: Any, folder: Path, size: int) -> None:
    """Write the tokenizer in `folder` to a GGUFWriter.

    size: rows of the embedding. Raises UsageError for a kind that llama.cpp has not.
    """
    import gguf
    from transformers import AutoTokenizer

    path = folder / "tokenizer.json"
    if not path.is_file():
        raise _refused(folder, "it has no tokenizer.json", "save it with transformers first")
    described = json.loads(path.read_text(encoding="utf-8"))
    model = described["model"]
    if model.get("type") != "BPE":
        raise _refused(folder, f"its model is {model.get('type')}, not BPE", "")
    words = AutoTokenizer.from_pretrained(folder)
    pieces = bool(model.get("byte_fallback"))
    tokens, types = _tokens(words, size, model.get("unk_token"))
    if pieces:
        _add_pieces(writer, described, tokens)
    else:
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre(_cut(folder, described))
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    log = logging.getLogger("gguf.vocab")
    before, log.disabled = log.disabled, True  # it guesses what is added to a text, and warns; we ask the tokenizer
    try:
        special = gguf.SpecialVocab(folder, load_merges=not pieces, n_vocab=size)
    finally:
        log.disabled = before
    ids = words("a")["input_ids"]
    special.add_special_token = {"bos": ids[0] == words.bos_token_id, "eos": ids[-1] == words.eos_token_id}
    special.chat_template = getattr(words, "chat_template", None)
    special.add_to_gguf(writer, quiet=True)


def _tokens(words: Any, size: int, unknown: str | None) -> tuple[list[str], list[int]]:
    """Each id's token and type. Ids of the embedding that no token has are unused."""
    from gguf import TokenType

    by_id = {i: token for token, i in words.get_vocab().items()}
    added = words.added_tokens_decoder
    tokens, types = [], []
    for i in range(size):
        token = by_id.get(i)
        if token is None:
            kind = TokenType.UNUSED
        elif token == unknown:
            kind = TokenType.UNKNOWN
        elif i in added:
            kind = TokenType.CONTROL if added[i].special else TokenType.USER_DEFINED
        else:
            kind = TokenType.BYTE if _BYTE.fullmatch(token) else TokenType.NORMAL
        tokens.append(f"[PAD{i}]" if token is None else token)
        types.append(int(kind))
    return tokens, types


def _add_pieces(writer: Any, described: dict[str, Any], tokens: list[str]) -> None:
    """A sentencepiece BPE: llama.cpp joins the neighbours whose union scores best, so an early merge scores high."""
    rank: dict[str, int] = {}
    for i, pair in enumerate(described["model"]["merges"]):
        rank.setdefault("".join(pair.split(" ") if isinstance(pair, str) else pair), i)
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_scores([-float(rank.get(token, len(rank))) for token in tokens])
    steps = described.get("normalizer") or {}
    kinds = [step.get("type") for step in steps.get("normalizers", [steps])]
    ahead = (described.get("pre_tokenizer") or {}).get("prepend_scheme", "never") != "never"
    writer.add_add_space_prefix("Prepend" in kinds or ahead)


def _cut(folder: Path, described: dict[str, Any]) -> str:
    """llama.cpp's name for how a byte-level BPE cuts text first."""
    before = described.get("pre_tokenizer") or {}
    steps = before.get("pretokenizers", [before])
    kinds = [step.get("type") for step in steps]
    if described.get("normalizer") not in (None, {"type": "NFC"}):
        raise _refused(folder, "it normalizes text in a way that llama.cpp has not", "")
    if kinds == ["ByteLevel"] and steps[0].get("use_regex"):
        return "gpt-2"
    if kinds == ["Digits", "ByteLevel"] and steps[0].get("individual_digits"):
        return "smollm"
    if kinds == ["Split", "ByteLevel"]:
        name = PATTERNS.get(steps[0].get("pattern", {}).get("Regex", ""))
        if name is not None:
            return name
    raise _refused(folder, f"it cuts text by {', '.join(map(str, kinds))} in a way that has no name known here", "")


def _refused(folder: Path, why: str, remedy: str) -> UsageError:
    return UsageError(
        f"the tokenizer of {folder} cannot be held by GGUF",
        why,
        remedy or "export without it: --to gguf:tokenizer=false",
    )
