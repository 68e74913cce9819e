"""ONNX files in ONNX Runtime. Needs nothing of Rarefy."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

NUMBERS = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
    "tensor(uint8)": np.uint8,
    "tensor(int8)": np.int8,
}


class Onnx:
    """A file. Language models have inputs `past_key_values.*`, and outputs `present.*` that become them."""

    def __init__(self, asked: dict[str, Any]) -> None:
        if asked["device"] != "cpu":
            raise ValueError("ONNX Runtime computes on the processor here; leave --device out")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = asked["threads"]
        # Threads that wait for more by spinning would take the processor from whoever comes next.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        self.session = onnxruntime.InferenceSession(asked["source"], options, providers=["CPUExecutionProvider"])
        self.inputs = {each.name: each for each in self.session.get_inputs()}
        self.outputs = [each.name for each in self.session.get_outputs()]
        self.past = [name for name in self.inputs if name.startswith("past_key_values.")]
        tokens = "input_ids" in self.inputs
        config = Path(asked["source"]).parent / "config.json"
        said = json.loads(config.read_text()) if config.is_file() else {}
        self.facts = {
            "unit": "tokens" if self.past else "sentences" if tokens else "examples",
            "mode": "ONNX",
            "vocabulary": said.get("vocab_size"),
            "positions": said.get("max_position_embeddings"),
            "touched": asked["touched"] if self.past else None,
            "kept": sum(self._empty(name, 1, 1).nbytes for name in self.past),
        }
        self.written: list[int] = []
        if not tokens:
            self.x = {name: self._examples(name, asked) for name in self.inputs}

    def run(self, ids: list[list[int]] | None, new: int) -> list[float]:
        """As `worker.Network` has it."""
        self.written = []
        if ids is None:
            self.session.run(None, self.x)
            return [time.perf_counter()]
        tokens = np.array(ids)
        if not self.past:
            self.session.run(None, self._text(tokens, 0))
            return [time.perf_counter()]
        return self._write(tokens, new)

    def _write(self, tokens: np.ndarray[Any, Any], new: int) -> list[float]:
        """The likeliest tokens; keys and values stay where ONNX Runtime has them."""
        value = onnxruntime.OrtValue.ortvalue_from_numpy
        state = {name: value(self._empty(name, len(tokens), 0)) for name in self.past}
        known: list[float] = []
        done = 0
        while len(known) < new:
            feed = {name: value(each) for name, each in self._text(tokens, done).items()}
            found = dict(zip(self.outputs, self.session.run_with_ort_values(None, feed | state), strict=True))
            done += tokens.shape[1]
            tokens = found["logits"].numpy()[:, -1].argmax(-1)[:, None]
            known.append(time.perf_counter())
            self.written.append(int(tokens[0, 0]))
            state = {name: found[name.replace("past_key_values.", "present.")] for name in self.past}
        return known

    def _text(self, tokens: np.ndarray[Any, Any], done: int) -> dict[str, np.ndarray[Any, Any]]:
        """The inputs that go with tokens after `done` others."""
        length = tokens.shape[1]
        known = {
            "input_ids": tokens,
            "attention_mask": np.ones((len(tokens), done + length)),
            "position_ids": np.tile(np.arange(done, done + length), (len(tokens), 1)),
            "token_type_ids": np.zeros_like(tokens),
        }
        return {name: known[name].astype(self._number(name)) for name in self.inputs if name not in self.past}

    def _number(self, name: str) -> Any:
        return NUMBERS[self.inputs[name].type]

    def _empty(self, name: str, batch: int, length: int) -> np.ndarray[Any, Any]:
        """(batch, heads, length, width)."""
        _, heads, _, width = self.inputs[name].shape
        return np.zeros((batch, heads, length, width), self._number(name))

    def _examples(self, name: str, asked: dict[str, Any]) -> np.ndarray[Any, Any]:
        """(batch, ...) of the user's data, over and over where they are fewer; noise where the file says the size."""
        if asked["data"]:
            with np.load(asked["data"]) as data:
                x = data["x"]
            return np.resize(x, (asked["batch"], *x.shape[1:])).astype(self._number(name))
        shape = self.inputs[name].shape[1:]
        if not all(isinstance(size, int) for size in shape):
            raise ValueError(f"the size of {name} is not known; give an .npz with x to --data")
        return np.random.default_rng(0).standard_normal((asked["batch"], *shape)).astype(self._number(name))


def load(asked: dict[str, Any]) -> Onnx:
    """The file `asked["source"]`."""
    return Onnx(asked)
