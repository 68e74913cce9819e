"""Logits and tokens of a GGUF under llama.cpp, for the proof of an export. Runs wherever llama-cpp-python is, without
Rarefy:

    python llama_cpp.py FILE given.npz outputs.npz
"""

import json
import sys

import numpy as np


def main(file: str, given: str, outputs: str) -> None:
    from llama_cpp import Llama

    data = np.load(given)
    ids, length = data["ids"], int(data["ids"].shape[1])
    model = Llama(file, n_ctx=max(length, 512), n_batch=length, n_ubatch=length, logits_all=True, verbose=False)
    logits = []
    for row in ids:
        model.reset()
        model.eval(row.tolist())
        logits.append(model.scores[:length].copy())
    said = {}
    if model.metadata.get("tokenizer.ggml.model", "no_vocab") not in ("no_vocab", "none"):
        tokens = model.tokenize(str(data["text"]).encode(), add_bos=True, special=True)
        said = {"tokens": tokens, "chat_template": model.metadata.get("tokenizer.chat_template")}
    np.savez(outputs, outputs=np.stack(logits), said=json.dumps(said))


if __name__ == "__main__":
    # Otherwise this file, named as it is, would be found instead of the package.
    sys.path.pop(0)
    main(*sys.argv[1:])
