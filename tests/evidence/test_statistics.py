"""Second moments: over all uses, shared where layers read one tensor, exact where they do not."""

import numpy as np
import pytest
import torch
from torch import nn

from rarefy.evidence.statistics import Moment, MomentGatherer, moment_obstacle, unfold


def gather(net: nn.Module, uses: dict[str, tuple[str, ...]], batches) -> dict[str, Moment | str]:
    gatherer = MomentGatherer(net, uses)
    with torch.no_grad():
        for batch in batches:
            net(batch)
            gatherer.next_batch()
    gatherer.remove()
    return gatherer.gathered()


def second_moment(rows: torch.Tensor) -> np.ndarray:
    rows = rows.reshape(-1, rows.shape[-1]).double()
    return (rows.T @ rows / len(rows)).numpy()


@pytest.fixture
def batches() -> list[torch.Tensor]:
    torch.manual_seed(0)
    return [torch.randn(5, 3, 8), torch.randn(2, 3, 8)]


class Net(nn.Module):
    """Two layers on one tensor, one on that tensor changed in place, one run twice."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v, self.twice = (nn.Linear(8, 8) for _ in range(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x.clone()
        a = self.q(x) + self.k(input=x)
        x.relu_()
        return self.twice(a + self.twice(self.v(x)))


def test_layers_on_one_tensor_share_a_moment_and_no_others_do(batches: list[torch.Tensor]) -> None:
    net = Net()
    made = gather(net, {name: (name,) for name in ("q", "k", "v", "twice")}, batches)
    assert made["q"] is made["k"]
    every = torch.cat([batch.reshape(-1, 8) for batch in batches])
    np.testing.assert_allclose(made["q"].s, second_moment(every), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(made["v"].s, second_moment(every.relu()), rtol=1e-5, atol=1e-6)
    with torch.no_grad():
        a, inner = net.q(every) + net.k(every), net.v(every.relu())
        both = torch.cat([inner, a + net.twice(inner)])
    np.testing.assert_allclose(made["twice"].s, second_moment(both), rtol=1e-5, atol=1e-6)
    assert (made["q"].count, made["twice"].count) == (21, 42)
    assert not net.q._forward_pre_hooks


def test_a_parameter_of_two_layers_has_the_moment_of_both(batches: list[torch.Tensor]) -> None:
    net = Net()
    made = gather(net, {"tied": ("q", "v")}, batches)["tied"]
    every = torch.cat([batch.reshape(-1, 8) for batch in batches])
    np.testing.assert_allclose(made.s, second_moment(torch.cat([every, every.relu()])), rtol=1e-5, atol=1e-6)


def test_layers_that_share_now_and_then_have_no_moment_and_those_not_reached_say_so() -> None:
    class Fickle(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = (nn.Linear(8, 8) for _ in range(3))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.a(x) + self.b(x if len(x) > 2 else x + 1)

    net, batches = Fickle(), [torch.randn(4, 8), torch.randn(2, 8)]
    made = gather(net, {name: (name,) for name in "abc"}, batches)
    assert isinstance(made["a"], Moment)
    assert made["b"] == "its inputs are shared with another layer's in some batches only"
    assert made["c"] == "calibration never reached it"


@pytest.mark.parametrize(
    "settings", [{}, {"stride": 2, "padding": 1}, {"padding": (2, 0), "dilation": (1, 2), "kernel_size": (3, 2)}]
)
def test_unfolded_inputs_times_the_matrix_are_the_convolution(settings: dict) -> None:
    torch.manual_seed(0)
    layer = nn.Conv2d(3, 5, **{"kernel_size": 3, "bias": False} | settings)
    x = torch.randn(2, 3, 9, 8)
    product = unfold(layer, x) @ layer.weight.reshape(5, -1).T
    torch.testing.assert_close(product.reshape(2, -1, 5).transpose(1, 2), layer(x).flatten(2), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("layer", "why"),
    [
        (nn.Linear(2, 2), ""),
        (nn.Conv2d(2, 2, 1), ""),
        (nn.Conv2d(2, 2, 1, groups=2), "a grouped convolution has no single second moment"),
        (nn.Conv2d(2, 2, 3, padding="same"), "only zero padding given in numbers is unfolded"),
        (nn.Conv2d(2, 2, 3, padding=1, padding_mode="circular"), "only zero padding given in numbers is unfolded"),
        (nn.Embedding(2, 2), "Embedding has no second moment of inputs"),
    ],
)
def test_obstacles(layer: nn.Module, why: str) -> None:
    assert moment_obstacle(layer) == why


def test_the_factor_is_of_the_damped_moment_in_the_order_asked_for() -> None:
    random = np.random.default_rng(0)
    x = random.normal(size=(50, 6))
    x[:, 2] = 0
    moment = Moment((x.T @ x / 50).astype(np.float32), 50)
    order = np.array([3, 1, 0, 5, 4, 2])
    u = moment.factor(0.01, order).astype(np.float64)
    damped = moment.s.astype(np.float64)
    mean = np.delete(np.diag(damped), 2).mean()
    damped[2, 2] = mean
    damped += 0.01 * mean * np.eye(6)
    np.testing.assert_allclose(u.T @ u @ damped[np.ix_(order, order)], np.eye(6), atol=1e-4)
    assert np.array_equal(u, np.triu(u))
    assert moment.factor(0.01, order) is moment.factor(0.01, order.copy())
    assert moment.factor(0.01) is not moment.factor(0.01, order)


def test_energy_is_the_mean_squared_output() -> None:
    random = np.random.default_rng(0)
    x, w = random.normal(size=(50, 6)), random.normal(size=(4, 6)).astype(np.float32)
    moment = Moment((x.T @ x / 50).astype(np.float32), 50)
    assert moment.energy(w) == pytest.approx(np.square(x @ w.T).sum(1).mean(), rel=1e-5)
    assert moment.finite() and not Moment(np.full((2, 2), np.inf, np.float32), 1).finite()
