"""Folding keeps the function, and leaves alone what is used twice."""

import pytest
import tiny
import torch
from torch import nn

from rarefy.errors import UsageError
from rarefy.families.folding import fold


def moved(module: nn.Module) -> nn.Module:
    """With normalizations that do something."""
    for layer in module.modules():
        if isinstance(layer, nn.modules.batchnorm._BatchNorm):
            for tensor in (layer.running_mean, layer.weight, layer.bias):
                tensor.data.normal_()
            layer.running_var.uniform_(0.5, 2)
    return module.eval()


def norms(module: nn.Module) -> int:
    return sum(isinstance(layer, nn.modules.batchnorm._BatchNorm) for layer in module.modules())


class Straight(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear, self.norm1 = nn.Linear(6, 12, bias=False), nn.BatchNorm1d(12)
        self.conv, self.norm2 = nn.Conv1d(3, 5, 2), nn.BatchNorm1d(5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm2(self.conv(self.norm1(self.linear(x)).reshape(-1, 3, 4)))


class Twice(nn.Module):
    """The layer's output is used beside the normalization."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.norm = nn.Linear(6, 4), nn.BatchNorm1d(4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.linear(x)
        return y + self.norm(y)


class Shared(nn.Module):
    """The layer is called twice, the normalization once."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.norm = nn.Linear(6, 6), nn.BatchNorm1d(6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(self.linear(torch.relu(self.linear(x))))


class Branching(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x if x.sum() > 0 else -x


@pytest.mark.parametrize(
    ("build", "shape", "left"),
    [(tiny.torch_resnet, (4, 3, 16, 16), 0), (Straight, (4, 6), 0), (Twice, (4, 6), 1), (Shared, (4, 6), 1)],
)
def test_the_function_stays(build, shape: tuple[int, ...], left: int) -> None:
    torch.manual_seed(0)
    module, x = moved(build()), torch.randn(shape)
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    folded = fold(module)
    with torch.no_grad():
        torch.testing.assert_close(folded(x.clone()), module(x.clone()), rtol=1e-4, atol=1e-4)
    assert norms(folded) == left
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())


def test_what_cannot_be_followed_is_said() -> None:
    with pytest.raises(UsageError, match="cannot be followed"):
        fold(Branching())
