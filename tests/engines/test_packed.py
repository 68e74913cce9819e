"""Packed layers and networks against what their codes decode to."""

from __future__ import annotations

import copy
import gc
import logging
import pickle
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig

import rarefy
from rarefy.codes import Codebook, Dense, Grid, Sparse
from rarefy.codes.separable import Separable, exponents
from rarefy.codes.transposed import Transposed
from rarefy.engines.packed import Packing, computing
from rarefy.engines.packed_blocks import Block
from rarefy.engines.packed_held import held
from rarefy.engines.packed_layers import PackedEmbedding
from rarefy.engines.packed_levels import bfloat16, levels
from rarefy.engines.packed_native import AT_ONCE, PackedNative
from rarefy.engines.packed_torch import Packed4, Packed8
from rarefy.errors import UsageError
from rarefy.files import record
from rarefy.files.container import Reader
from rarefy.model import Model, Step

if TYPE_CHECKING:
    from collections.abc import Callable

    from conftest import Pair

    from rarefy.codes import Code

    Write = Callable[..., Pair]

OUT, IN = 64, 128
EXACT = 1e-6
RNG = np.random.default_rng(0)
# Said by transformers under any configuration of the caller's; outside of tests the plug-in keeps it silent.
pytestmark = pytest.mark.filterwarnings("ignore:(?s)You passed `quantization_config`")

LLAMA = LlamaConfig(
    vocab_size=64,
    hidden_size=64,
    intermediate_size=96,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=64,
    tie_word_embeddings=True,
)


def grid(bits: int, group: int, affine: bool, out: int = OUT, columns: int = IN, scale: str = "F16") -> Grid:
    rng = np.random.default_rng(bits)
    groups = -(-columns // group)
    q = rng.integers(0, 1 << bits, (out, columns)).astype(np.uint8)
    zero = rng.integers(0, 1 << bits, (out, groups)).astype(np.uint8) if affine else None
    scales = Dense.of(
        rng.uniform(0.01, 0.02, (out, groups)).astype(np.float32) * (1e9 if scale == "BF16" else 1), scale
    )
    return Grid(q, scales, zero, bits_per_symbol=bits, group=group, shape=(out, columns))


def separable(
    spread: float, points: tuple[float, float, float] = (1, 2, 3), far: int = 0, out: int = OUT, columns: int = IN
) -> Separable:
    rng = np.random.default_rng(1)
    q = np.clip(np.rint(rng.normal(0, spread, (out, columns))), -3 * spread, 3 * spread).astype(np.int32)
    if far:
        q[:, 5] = rng.integers(-far, far + 1, out)
        q[0, 5] = far
    rows, inputs = (exponents(rng.uniform(0.5, 2, n)) for n in (out, columns))
    return Separable(q, rows, inputs, np.array(points, np.float32), shape=(out, columns))


GAUSS = RNG.normal(0, 0.05, (OUT, IN)).astype(np.float32)
KEEP = RNG.random((OUT, IN)) < 0.5
CODES: dict[str, tuple[Code, int, float]] = {
    # code, bits that it must take, largest relative error of the weights; bfloat16 scales alone come to 0.3 %
    "scales of 32 bits": (grid(4, 64, True, scale="F32"), 4, 0.005),
    "scales beyond binary16": (grid(4, 64, True, scale="BF16"), 4, EXACT),
    "symmetric": (grid(4, 64, False), 4, EXACT),
    "affine": (grid(4, 32, True), 4, EXACT),
    "one group": (grid(3, IN, True), 4, EXACT),
    "one group, rows that fill no block": (grid(4, 72, True, columns=72), 4, EXACT),
    "a short last group": (grid(4, 96, True), 4, EXACT),
    "ragged groups": (grid(4, 48, True), 8, 0.01),
    "8 bits": (grid(8, 64, True), 8, 0.01),
    "8 bits, a scale a row": (grid(8, IN, False), 8, EXACT),
    "8 bits, far from zero": (grid(8, IN, True), 8, 0.01),
    "separable": (separable(2), 4, EXACT),
    "separable, with points": (separable(2, (0.8984375, 1.8984375, 2.8984375)), 4, EXACT),
    "separable, some beyond": (separable(4), 4, EXACT),
    "separable, one far column": (separable(2, far=1000), 4, EXACT),
    "separable, too far": (separable(2, far=1 << 15), 8, 0.02),
    "separable, wide": (separable(12), 8, 0.006),
    "separable, wide with points": (separable(12, (0.9, 1.9, 2.9)), 8, 0.01),
    "separable, wide with a far column": (separable(12, far=5000), 8, 0.02),
    "codebook": (Codebook.of(np.rint(GAUSS * 100) / 100), 8, 0.01),
    "sparse": (Sparse(KEEP, grid(4, 64, True)), 8, 0.01),
    "transposed": (Transposed(grid(4, 64, False, IN, OUT)), 8, 0.01),
}


def distance(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found.detach().float() - expected.detach()).norm() / expected.detach().norm())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", CODES)
def test_layer_is_its_code(name: str, dtype: torch.dtype) -> None:
    code, bits, limit = CODES[name]
    layer = PackedNative(held(code), *code.shape)
    expected, slack = torch.from_numpy(code.decode()), EXACT if dtype is torch.float32 else 0.01
    assert layer.bits == bits
    assert distance(layer.weight, expected) < limit
    for rows in (1, 3, AT_ONCE + 1):
        x = torch.randn(rows, code.shape[1], generator=torch.Generator().manual_seed(rows)).to(dtype)
        assert layer(x).dtype == dtype
        assert distance(layer(x), x.float() @ expected.t()) < limit + slack
        assert distance(layer(x), x.float() @ layer.weight.t()) < slack
        gradient = torch.randn(rows, OUT, generator=torch.Generator().manual_seed(rows)).to(dtype)
        layer(x.requires_grad_()).backward(gradient)
        assert x.grad is not None and distance(x.grad, gradient.float() @ layer.weight) < slack


@pytest.mark.parametrize("name", CODES)
def test_layer_by_restored_blocks_is_its_code(name: str) -> None:
    code = CODES[name][0]
    found = levels(code)
    layer = (Packed4 if found.bits == 4 else Packed8)(found, code.shape[1], "cpu")
    expected = torch.from_numpy(code.decode())
    assert (layer.kernel, layer.packed.nbytes) == ("restored by blocks", found.q.size * found.bits // 8)
    assert distance(layer.weight, expected) < 0.06
    for rows in (1, AT_ONCE + 1):
        x = torch.randn(2, rows, code.shape[1], generator=torch.Generator().manual_seed(rows))
        assert distance(layer(x), x @ layer.weight.float().t()) < 0.01
        gradient = torch.randn(2, rows, OUT, generator=torch.Generator().manual_seed(rows))
        layer(x.requires_grad_()).backward(gradient)
        assert x.grad is not None and distance(x.grad, gradient @ layer.weight.float()) < 0.01


def test_no_byte_more_than_said() -> None:
    """4 bits, 4 bytes for each integer beyond, for where those of 16 rows begin, for a row and a column; 16 values."""
    code = separable(4)
    beyond = int(((code.q < -8) | (code.q > 7)).sum())
    layer = PackedNative(held(code), OUT, IN)
    assert beyond > 100
    assert sum(t.nbytes for t in layer.buffers()) == OUT * IN // 2 + 4 * (beyond + OUT // 16 + 1 + OUT + IN) + 32


@pytest.mark.parametrize("way", [copy.copy, copy.deepcopy, lambda layer: pickle.loads(pickle.dumps(layer))])
def test_copies_live_on(way: Any) -> None:
    layer = PackedNative(held(separable(4)), OUT, IN)
    x = torch.randn(2, IN)
    expected = layer(x)
    other = way(layer)
    del layer
    gc.collect()
    assert torch.equal(other(x), expected)
    assert torch.equal(torch.compile(other, backend="aot_eager")(x), expected)


def test_inputs_of_any_shape_but_of_one_width() -> None:
    layer = PackedNative(held(separable(2)), OUT, IN)
    for shape in ((IN,), (0, IN), (2, 3, IN), (2, AT_ONCE, IN)):
        x = torch.randn(shape)
        assert layer(x).shape == (*shape[:-1], OUT)
        assert torch.allclose(layer(x), x @ layer.weight.t(), atol=1e-3)
    x = torch.randn(IN, 5).t()
    assert torch.equal(layer(x), layer(x.contiguous()))
    for kind in (layer, Packed8(levels(grid(8, 64, True)), IN, "cpu")):
        with pytest.raises(RuntimeError, match=f"inputs of {IN // 2} for a layer that takes {IN}"):
            kind(torch.randn(4, IN // 2))


def test_refuses_another_device() -> None:
    layer = PackedNative(held(separable(2)), OUT, IN)
    with pytest.raises(UsageError, match="its input is on meta"):
        layer(torch.empty(1, IN, device="meta"))


def test_graphs_have_no_holes() -> None:
    """A packed network compiles whole: its products are operations that torch.compile knows."""
    codes = [separable(spread, columns=OUT) for spread in (2, 12)]
    layers = nn.Sequential(*(PackedNative(held(code), OUT, OUT).with_bias(torch.ones(OUT)) for code in codes))
    x = torch.randn(3, OUT)
    found = torch.compile(layers, fullgraph=True, backend="aot_eager")(x)
    assert torch.equal(found, layers(x))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_agrees() -> None:
    found = levels(grid(4, 64, True))
    x = torch.randn(2, IN)
    layer = Packed4(found, IN, "cuda")
    assert layer.kernel == "int4pack on CUDA"
    assert distance(layer(x.cuda()).cpu(), Packed4(found, IN, "cpu")(x)) < 0.01


def test_rounds_as_torch_does() -> None:
    values = RNG.normal(0, 1, 1000).astype(np.float32)
    assert np.array_equal(bfloat16(values), torch.from_numpy(values).bfloat16().float().numpy())


def test_error_of_rounded_scales_is_the_one_that_is_made() -> None:
    code = CODES["scales of 32 bits"][0]
    layer = PackedNative(held(code), OUT, IN)
    assert distance(layer.weight, torch.from_numpy(code.decode())) ** 2 == pytest.approx(layer.error, rel=1e-3)
    assert PackedNative(held(CODES["affine"][0]), OUT, IN).error == 0


def test_error_is_the_one_that_is_made() -> None:
    code = separable(12, (0.9, 1.9, 2.9))
    found = levels(code)
    exact = code.decode() / code.free()["columns"]
    assert found.columns is not None and found.offset is None
    made = found.q * found.scale
    assert found.error == pytest.approx(np.square(made - exact).sum() / np.square(exact).sum(), rel=1e-3)
    assert found.error > 0


@pytest.fixture
def llama(write: Write) -> Pair:
    torch.manual_seed(0)
    return write(AutoModelForCausalLM.from_config(LLAMA), grid=True)


def opened(pair: Pair) -> Any:
    reader = Reader(pair.artifact / "model.safetensors")
    codes = {name: record.decode(reader.record(name))[0] for name in reader.names()}
    return rarefy.open(pair.dense).with_codes(codes, Step("test", {})).packed()


def loaded(pair: Pair) -> Any:
    return AutoModelForCausalLM.from_pretrained(pair.artifact, quantization_config=rarefy.Packed())


def kl(one: torch.Tensor, other: torch.Tensor) -> float:
    p, q = one.float().log_softmax(-1), other.float().log_softmax(-1)
    return float((p.exp() * (p - q)).sum(-1).mean())


@pytest.mark.parametrize("way", ["open", "from_pretrained"])
def test_network(way: str, llama: Pair, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "rarefy")
    module = opened(llama) if way == "open" else loaded(llama)
    dense = AutoModelForCausalLM.from_pretrained(llama.dense, dtype=torch.float32)
    ids = torch.arange(40)[None]
    with torch.inference_mode():
        assert kl(dense(ids).logits, module(ids).logits) < 1e-3
        assert module.generate(ids, max_new_tokens=4, do_sample=False, pad_token_id=0).shape == (1, 44)
    assert not any(tensor.is_meta for tensor in [*module.parameters(), *module.buffers()])
    assert sum(isinstance(child, Block) for child in module.modules()) == 9
    assert module.get_output_embeddings().packed is module.get_input_embeddings().packed
    assert [said.getMessage() for said in caplog.records] == [str(module.packing)]


def test_accounts_for_its_memory(llama: Pair) -> None:
    module = opened(llama)
    storages = {
        t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in [*module.parameters(), *module.buffers()]
    }
    assert module.packing.bytes == sum(storages.values())
    weights = sum(p.numel() for p in AutoModelForCausalLM.from_config(LLAMA).parameters())
    assert module.packing.bytes < 1.3 * weights
    assert not any(type(m) in (nn.Linear, nn.Embedding) for m in module.modules())


@pytest.mark.parametrize("way", [opened, loaded])
def test_transposed_layers(way: Callable[[Pair], Any], write: Write) -> None:
    config = GPT2Config(vocab_size=64, n_positions=64, n_embd=128, n_layer=2, n_head=4)  # records of several pages
    pair = write(AutoModelForCausalLM.from_config(config), grid=True)
    module = way(pair)
    dense = AutoModelForCausalLM.from_pretrained(pair.dense)
    ids = torch.arange(40)[None]
    assert isinstance(module.transformer.h[0].attn.c_attn, PackedNative)
    assert module.transformer.h[0].attn.c_attn.bias.shape == (384,)
    with torch.inference_mode():
        assert kl(dense(ids).logits, module(ids).logits) < 1e-3


def test_entropy_codes_of_a_module() -> None:
    linear, table = nn.Linear(IN, OUT), nn.Embedding(OUT, IN)
    model = Model.from_module(nn.ModuleDict({"linear": linear, "table": table}))
    code = separable(2, (0.95, 1.95, 2.95))
    module = model.with_codes({"linear.weight": code, "table.weight": code}, Step("test", {})).packed()
    expected, ids = torch.from_numpy(code.decode()), torch.tensor([[0, 5], [63, 5]])
    assert isinstance(module["linear"], PackedNative)  # type: ignore[index]
    assert isinstance(module["table"], PackedEmbedding)  # type: ignore[index]
    x = torch.randn(2, 3, IN)
    assert distance(module["linear"](x), nn.functional.linear(x, expected, linear.bias)) < 0.05  # type: ignore[index]
    assert distance(module["table"](ids), expected[ids]) < 0.01  # type: ignore[index]


def test_names_what_stays_dense() -> None:
    module = nn.Sequential(nn.Linear(IN, OUT), nn.Linear(OUT, 16))
    model = Model.from_module(module).with_codes({"0.weight": grid(4, 64, True)}, Step("test", {}))
    found: Any = model.packed()
    assert found.packing.dense == ("1.weight",)
    assert found[1].weight.dtype == computing("cpu")
    assert "dense: 1.weight" in str(found.packing)


def test_line() -> None:
    packing = Packing(1_234_567, {"int4pack at 4 bits": 2, "int8pack at 8 bits": 1}, (), 1e-4)
    assert str(packing) == (
        "packed: 1.2 MB in memory, layers: 2 by int4pack at 4 bits, 1 by int8pack at 8 bits, weights moved by 1.00 %"
    )


def test_refuses_saving_and_writing(llama: Pair, tmp_path: Any) -> None:
    module = opened(llama)
    layer = module.model.layers[0].mlp.down_proj
    with pytest.raises(UsageError, match="packed weights do not change"):
        layer.weight.data += 1
    with pytest.raises(UsageError, match="packed weights do not change"):
        layer.weight.data = torch.zeros_like(layer.weight)
    with pytest.raises(UsageError, match="is not saved"):
        module.save_pretrained(tmp_path / "again")
    assert copy.deepcopy(module)(torch.arange(4)[None]).logits.shape == (1, 4, 64)
    module = loaded(llama)
    with pytest.raises(UsageError, match="is not saved"):
        module.save_pretrained(tmp_path / "again")
