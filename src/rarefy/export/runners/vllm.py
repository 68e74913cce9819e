"""Log probabilities of a folder under vLLM, for the proof of an export. Runs in vLLM's own environment, without Rarefy:

python vllm.py FOLDER given.npz outputs.npz
"""

import json
import os
import sys

import numpy as np

ROOM = 1 << 28
"""Bytes for keys and values. Unless told vLLM takes most of the machine's memory, or refuses where it is in use."""


def main(folder: str, given: str, outputs: str) -> None:
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"  # of errors in its other processes it says no more than that
    from vllm import LLM, SamplingParams

    ids = np.load(given)["ids"]
    model = LLM(  # in bfloat16: its kernels for integer weights have no float32
        folder, dtype="bfloat16", enforce_eager=True, max_model_len=int(ids.shape[1]) + 1, max_logprobs=-1, seed=0,
        skip_tokenizer_init=True, kv_cache_memory_bytes=ROOM,
    )  # fmt: skip
    asked = SamplingParams(max_tokens=1, prompt_logprobs=-1, temperature=0.0, detokenize=False)
    rows = []
    for answer in model.generate([{"prompt_token_ids": row.tolist()} for row in ids], asked):
        # Of a token given those before it: nothing for the first, and what the last would bring is not asked for.
        laws = answer.prompt_logprobs[1:]
        row = np.full((len(laws), 1 + max(max(law) for law in laws)), -np.inf, np.float32)
        for position, law in zip(row, laws, strict=True):
            position[list(law)] = [entry.logprob for entry in law.values()]
        rows.append(row)
    np.savez(outputs, outputs=np.stack(rows), said=json.dumps({}))


if __name__ == "__main__":
    # Otherwise this file, named as it is, would be found instead of the package.
    sys.path.pop(0)
    main(*sys.argv[1:])
