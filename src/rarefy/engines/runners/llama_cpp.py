"""GGUF files in llama.cpp, through llama-cpp-python. Needs nothing of Rarefy."""

from __future__ import annotations

import ctypes
import time
from itertools import islice
from typing import Any

import llama_cpp


class Llama:
    """A file, with room for one text."""

    def __init__(self, asked: dict[str, Any]) -> None:
        if asked["batch"] != 1:
            raise ValueError("llama.cpp writes one text at a time here; measure it with --batch 1")
        if asked["device"] != "cpu":
            raise ValueError("llama.cpp computes on the processor here; leave --device out")
        room, threads = asked["prompt"] + asked["generate"], asked["threads"]
        self.model = llama_cpp.Llama(
            asked["source"], n_ctx=room, n_batch=room, n_threads=threads, n_threads_batch=threads, n_gpu_layers=0,
            verbose=False,
        )  # fmt: skip
        self.written: list[int] = []
        model = self.model.model
        heads, width = llama_cpp.llama_model_n_head_kv(model), self._width(model)
        self.facts = {
            "unit": "tokens",
            "mode": self._type(model),
            "vocabulary": self.model.n_vocab(),
            "positions": llama_cpp.llama_model_n_ctx_train(model),
            "touched": asked["touched"],
            "kept": 2 * llama_cpp.llama_model_n_layer(model) * heads * width * 2,  # float16 unless told
        }

    def run(self, ids: list[list[int]] | None, new: int) -> list[float]:
        """As `worker.Network` has it."""
        assert ids is not None
        self.model.reset()  # or it would remember the text that it has read already
        self.written, known = [], []
        for token in islice(self.model.generate(ids[0], temp=0.0), new):
            known.append(time.perf_counter())
            self.written.append(token)
        return known

    def text(self, prompt: str, new: int) -> str:
        """As `worker.Network` has it."""
        ids = self.model.tokenize(prompt.encode(), special=True)
        self.run([ids], new)
        ends = [i for i, token in enumerate(self.written) if token == self.model.token_eos()]
        found: bytes = self.model.detokenize(self.written[: ends[0] if ends else None], prev_tokens=ids)
        return found.decode(errors="replace")

    def _width(self, model: Any) -> int:
        said = self.model.metadata
        width = said.get(f"{said.get('general.architecture')}.attention.key_length")
        return int(width or llama_cpp.llama_model_n_embd(model) // llama_cpp.llama_model_n_head(model))

    def _type(self, model: Any) -> str:
        """`Q4_0`: what it calls the file's type, after the architecture and the size."""
        words = ctypes.create_string_buffer(128)
        llama_cpp.llama_model_desc(model, words, len(words))
        return words.value.decode().split(" ", 2)[-1]


def load(asked: dict[str, Any]) -> Llama:
    """The file `asked["source"]`."""
    return Llama(asked)
