"""quantize.entropy_aware: it counts the bits that the coder spends, keeps a size, and learns LeNet-300-100's digits."""

import dataclasses
from collections import OrderedDict

import numpy as np
import pytest
import tiny
import torch
from torch import nn

from rarefy.codes import Grid
from rarefy.errors import UsageError
from rarefy.evidence import Evidence
from rarefy.files import record
from rarefy.methods.quantize.entropy_aware import EntropyAware, _count, grid
from rarefy.model import Model
from rarefy.training.latent import State

SHORT = EntropyAware(epochs=40.0, batch=16, rate=0.003)


def latent(q: np.ndarray, step: float = 0.25) -> dict[str, torch.Tensor]:
    u = torch.from_numpy((q * step).astype(np.float32))
    return {"u": u, "log_step": torch.tensor(step).log(), "slope": torch.zeros(u.shape)}


def structured(seed: int, density: float) -> np.ndarray:
    """Integers of which some rows and columns hold many and others none."""
    random = np.random.default_rng(seed)
    rows, columns = random.gamma(0.5, 1, (300, 1)), random.gamma(0.5, 1, (1, 400))
    filled = random.random((300, 400)) < np.minimum(rows * columns * density * 4, 0.9)
    return filled * random.choice([-1, 1], filled.shape) * random.geometric(0.7, filled.shape)


def counted(q: np.ndarray) -> float:
    """The formulas of the page, a place at a time."""
    rows, columns = q.shape
    p = (np.count_nonzero(q) + 0.5) / (q.size + 1)
    more = 1 - (np.count_nonzero(q) + 1) / (np.abs(q).sum() + 1.5)
    bits = 0.0
    for r in range(rows):
        exceeds = (np.count_nonzero(q[r]) / columns + 1 / 32) / (p + 1 / 32)
        for i in range(columns):
            filled = (np.count_nonzero(q[:, i]) + 8 * p) / (rows + 8)
            odds = min(max(exceeds * filled / (1 - filled), 2e-4), 5000)
            size = abs(int(q[r, i]))
            bits += np.log2(1 + odds)
            if size:
                bits += 1 - np.log2(odds) - np.log2((1 - more) * more ** (size - 1))
    return float(bits)


@pytest.mark.parametrize("density", [0.02, 0.2])
def test_bits_are_counted_as_the_page_says(density: float) -> None:
    q = structured(1, density)[:60, :50]
    assert _count(latent(q)) == pytest.approx(counted(q), rel=1e-4)


@pytest.mark.parametrize("density", [0.01, 0.05])
def test_bits_are_about_those_of_the_file(density: float) -> None:
    q = structured(1, density)
    written = 8 * len(record.encode(grid(q, 0.25, q.shape), "F32", "context"))
    assert 0.75 * written < _count(latent(q)) < 1.05 * written


def test_a_place_among_full_ones_is_cheaper() -> None:
    q = np.zeros((40, 30), np.int64)
    q[::2, 3] = q[7, ::2] = 1
    estimated = latent(q)
    _count(estimated)
    slope = estimated["slope"].numpy()
    both, row, column, none = slope[7, 3], slope[7, 21], slope[21, 3], slope[21, 21]
    assert 0 <= both < row < none and both < column < none


def test_the_grid_is_no_wider_than_its_integers() -> None:
    for low, high, bits in ((0, 0, 2), (-1, 1, 2), (0, 2, 3), (-4, 1, 4), (-127, 127, 8)):
        q = np.array([[low, high, 0]])
        code = grid(q, 0.5, (1, 3))
        assert isinstance(code, Grid) and code.bits_per_symbol == bits
        np.testing.assert_array_equal(code.decode(), 0.5 * q)


@pytest.mark.parametrize("size", [300, 450, 700])
def test_a_size_is_kept_and_used(size: int) -> None:
    made = dataclasses.replace(SHORT, size=size).apply(tiny.opened("chain"), tiny.evidence("chain", 64))
    assert State(made, 1).file_bytes({}) <= size


def test_a_dearer_bit_makes_a_smaller_file() -> None:
    model, evidence = tiny.opened("chain"), tiny.evidence("chain", 64)
    sizes = [
        State(dataclasses.replace(SHORT, price=price).apply(model, evidence), 1).file_bytes({})
        for price in (0.0, 0.003, 0.03)
    ]
    assert sizes[0] > 1.1 * sizes[1] > 1.1 * 1.1 * sizes[2]


def test_a_size_below_what_an_empty_file_takes_is_refused() -> None:
    with pytest.raises(UsageError, match=r"100 bytes are too few: the file takes 1\d\d bytes with nothing in it"):
        dataclasses.replace(SHORT, size=100).apply(tiny.opened("chain"), tiny.evidence("chain"))


def lenet300(x: torch.Tensor, y: torch.Tensor) -> nn.Module:
    """LeNet-300-100 after two epochs over the examples."""
    torch.manual_seed(0)
    network = nn.Sequential(OrderedDict(
        flatten=nn.Flatten(), ip1=nn.Linear(784, 300), relu1=nn.ReLU(),
        ip2=nn.Linear(300, 100), relu2=nn.ReLU(), ip3=nn.Linear(100, 10),
    ))  # fmt: skip
    optimizer = torch.optim.AdamW(network.parameters(), fused=True)
    for _ in range(2):
        for batch, labels in zip(x.split(16), y.split(16), strict=True):
            nn.functional.cross_entropy(network(batch), labels).backward()
            optimizer.step()
            optimizer.zero_grad()
    return network


def test_two_epochs_of_lenet_300_100_on_digits() -> None:
    """Real digits, drawn three times as large: 266,610 weights in 10 KB, a hundredth of what they were."""
    digits = pytest.importorskip("sklearn.datasets").load_digits()
    images = np.kron(digits.images.astype(np.float32) / 16, np.ones((3, 3), np.float32))
    x, y = np.pad(images, ((0, 0), (2, 2), (2, 2)))[:, None], digits.target.astype(np.int64)
    model = Model.from_module(lenet300(torch.from_numpy(x[:1500]), torch.from_numpy(y[:1500])))
    method = EntropyAware(size=10_000, epochs=2.0, batch=16, rate=0.003, soft=0.0, augment="shift")
    made = method.apply(model, Evidence(x[:1500], labels=y[:1500]), seed=0)
    assert 5000 < State(made, 1).file_bytes({}) <= 10_000
    with torch.no_grad():
        wrong = (made.module()(torch.from_numpy(x[1500:])).argmax(1).numpy() != y[1500:]).mean()
    assert wrong < 0.3
