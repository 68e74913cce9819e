"""llama.cpp's k- and i-quants with an importance matrix, by that project's own tools:

    python llamacpp_types.py MODEL TOKENS.npy OUT --type Q3_K_M --tools BUILD/bin --source LLAMA.CPP --prepared DIR

The tools are built from the source distribution of llama-cpp-python, which has llama.cpp under vendor/. Runs where
gguf, torch and transformers are. DIR keeps the float32 GGUF and the importance matrix, which all types share.
OUT gets the decoded weights and run.json; bytes are counted without the tokenizer. The cost is the tools', the
importance matrix counted in every type; their peak memory is never less than this process's own (Linux counts it in).
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
import tomllib
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import dense
import gguf
import numpy as np
import torch
from meter import Meter
from safetensors.torch import load_file

NAMES = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    **{f"attn_{at}": f"self_attn.{at}_proj" for at in "qkv"},
    "attn_output": "self_attn.o_proj",
    **{f"ffn_{at}": f"mlp.{at}_proj" for at in ("gate", "up", "down")},
}
"""llama.cpp's name of a tensor to Hugging Face's, both without the layer."""


def hugging_face(name: str) -> str:
    """`blk.3.attn_q.weight` -> `model.layers.3.self_attn.q_proj.weight`."""
    layer, kind = re.fullmatch(r"(?:blk\.(\d+)\.)?(\w+)\.weight", name).groups()
    return f"model.layers.{layer}.{NAMES[kind]}.weight" if layer else f"{NAMES[kind]}.weight"


def in_halves(weight: np.ndarray, heads: int) -> np.ndarray:
    """Rows of q or k from llama.cpp's order (pairs that rotate together are neighbours) to the two halves of a head."""
    rows, columns = weight.shape
    return weight.reshape(heads, rows // heads // 2, 2, columns).swapaxes(1, 2).reshape(rows, columns)


def decoded(path: Path, config: dict) -> dict[str, torch.Tensor]:
    """{Hugging Face name: float32} of a Llama's GGUF."""
    heads = {"attn_q": config["num_attention_heads"], "attn_k": config["num_key_value_heads"]}
    made = {}
    for tensor in gguf.GGUFReader(path).tensors:
        weight = gguf.dequantize(tensor.data, tensor.tensor_type)
        turned = heads.get(tensor.name.split(".")[-2])
        made[hugging_face(tensor.name)] = torch.tensor(in_halves(weight, turned) if turned else weight)
    return {name: weight for name, weight in made.items() if not name.startswith("rope_freqs")}


def spent(path: Path) -> dict[str, int]:
    """Bytes of a GGUF without its tokenizer, and of its matrices."""
    reader = gguf.GGUFReader(path)
    tokenizer = sum(
        sum(part.nbytes for part in f.parts) for f in reader.fields.values() if f.name.startswith("tokenizer.")
    )
    sizes = ((hugging_face(tensor.name), int(tensor.n_bytes)) for tensor in reader.tensors)
    return dense.spent(path.stat().st_size - tokenizer, sizes)


def prepare(model: Path, tokens: Path, tools: Path, source: Path, into: Path, threads: int) -> dict[str, float]:
    """Make what all types share, each file once; returns what the importance matrix cost."""
    from transformers import AutoTokenizer

    into.mkdir(parents=True, exist_ok=True)
    full, matrix, cost = into / "float32.gguf", into / "imatrix.gguf", into / "imatrix.json"
    if not full.exists():
        part = into / "part-float32.gguf"
        run(sys.executable, source / "convert_hf_to_gguf.py", model, "--outtype", "f32", "--outfile", part)
        original = load_file(model / "model.safetensors")
        for name, weight in decoded(part, json.loads((model / "config.json").read_text())).items():
            if not torch.equal(weight, original[name].float()):
                raise ValueError(f"{name} is not read from the GGUF as it was written")
        part.rename(full)
    if not matrix.exists():
        text, part = into / "calibration.txt", into / "part-imatrix.gguf"
        rows = AutoTokenizer.from_pretrained(model).batch_decode(np.load(tokens))
        text.write_text("".join(rows), encoding="utf-8")
        took = run(
            *(tools / "llama-imatrix", "-m", full, "-f", text, "-o", part),
            *("-c", str(np.load(tokens).shape[1]), "-t", str(threads), "--no-ppl", "-ngl", "0"),
        )
        cost.write_text(json.dumps(took))
        part.rename(matrix)
    return json.loads(cost.read_text())


def run(*command: str | Path) -> dict[str, float]:
    """Run a tool; its wall and processor seconds and its peak memory. Raises CalledProcessError where it fails."""
    began = time.perf_counter()
    tool = subprocess.Popen(command, stdout=sys.stderr)
    _, status, used = os.wait4(tool.pid, 0)
    tool.returncode = os.waitstatus_to_exitcode(status)
    if tool.returncode:
        raise subprocess.CalledProcessError(tool.returncode, [str(word) for word in command])
    return {
        "wall_s": round(time.perf_counter() - began, 2),
        "processor_s": round(used.ru_utime + used.ru_stime, 2),
        "peak_bytes": used.ru_maxrss * 1024,
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("model", type=Path)
    parser.add_argument("tokens", type=Path, help=".npy of int token ids [samples, length]")
    parser.add_argument("out", type=Path)
    parser.add_argument("--type", required=True, help="as llama-quantize names it: Q2_K, IQ3_XXS, Q4_K_M")
    parser.add_argument("--tools", type=Path, required=True, help="folder of llama-quantize and llama-imatrix")
    parser.add_argument("--source", type=Path, required=True, help="llama.cpp's folder, for convert_hf_to_gguf.py")
    parser.add_argument("--prepared", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=2)
    asked = parser.parse_args()
    meter = Meter()
    matrix = prepare(asked.model, asked.tokens, asked.tools, asked.source, asked.prepared, asked.threads)
    with tempfile.TemporaryDirectory(dir=asked.out) as folder:
        made = Path(folder) / f"{asked.type}.gguf"
        shared = ("--imatrix", asked.prepared / "imatrix.gguf", asked.prepared / "float32.gguf")
        took = run(asked.tools / "llama-quantize", *shared, made, asked.type, str(asked.threads))
        weights = decoded(made, json.loads((asked.model / "config.json").read_text()))
        types = sorted({tensor.tensor_type.name for tensor in gguf.GGUFReader(made).tensors})
        found = spent(made)
    dense.save(asked.model, asked.out, weights)
    package = tomllib.loads((asked.source / "gguf-py" / "pyproject.toml").read_text())["project"]
    meter.write(
        asked.out / "run.json",
        ["gguf"],
        type=asked.type,
        types=types,
        matrix=matrix,
        quantize=took,
        total_wall_s=round(matrix["wall_s"] + took["wall_s"], 2),
        total_processor_s=round(matrix["processor_s"] + took["processor_s"], 2),
        total_peak_bytes=max(matrix["peak_bytes"], took["peak_bytes"]),
        tools_version=f"with gguf {package['version']}",  # the tools themselves do not say
        bytes=found,
    )


if __name__ == "__main__":
    main()
