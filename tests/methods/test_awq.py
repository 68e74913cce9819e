"""AWQ against a slow literal search."""

import numpy as np
import pytest
import torch

from rarefy.codes import Dense, Grid
from rarefy.codes.scaled import Scaled
from rarefy.evidence import Moment, SecondMoment, Site
from rarefy.methods.quantize.awq import AWQ
from rarefy.methods.quantize.rtn import RTN


def layer(outliers: float, rows: int = 32, columns: int = 64) -> tuple[np.ndarray, np.ndarray]:
    """Weights, and inputs of which a few channels are larger."""
    random = np.random.default_rng(0)
    x = random.normal(size=(500, columns))
    x[:, ::16] *= outliers
    return random.normal(size=(rows, columns)).astype(np.float32), x


def site(w: np.ndarray, x: np.ndarray) -> Site:
    moment = Moment((x.T @ x / len(x)).astype(np.float32), len(x))
    return Site("w", "linear", "s", Dense.of(w), {SecondMoment(): moment})


def rounded(w: np.ndarray, bits: int, group: int) -> np.ndarray:
    """Each group to nearest on an affine grid whose scale is bf16."""
    made = np.empty_like(w, np.float64)
    for start in range(0, w.shape[1], group):
        own = w[:, start : start + group].astype(np.float64)
        low, high = np.minimum(own.min(1), 0), np.maximum(own.max(1), 0)
        s = torch.tensor(((high - low) / (2**bits - 1)).astype(np.float32)).bfloat16().double().numpy()[:, None]
        z = np.clip(np.rint(-low[:, None] / s), 0, 2**bits - 1)
        made[:, start : start + group] = (np.clip(np.rint(own / s) + z, 0, 2**bits - 1) - z) * s
    return made


def literal(w: np.ndarray, x: np.ndarray, bits: int, group: int, points: int) -> tuple[float, np.ndarray, float]:
    """The best alpha, the weights then, and what of the output they lose, each alpha on all inputs."""
    size, found = np.sqrt((x**2).mean(0)), []
    for i in range(points):
        s = size ** (i / points)
        columns = torch.tensor((np.sqrt(s.max() * s.min()) / s).astype(np.float32)).bfloat16().double().numpy()
        made = rounded((w / columns).astype(np.float32), bits, group) * columns
        found.append((float(((x @ (made - w).T) ** 2).sum(1).mean()), i / points, made))
    lost, alpha, made = min(found, key=lambda one: one[0])
    return alpha, made, lost


@pytest.mark.parametrize(("bits", "group"), [(3, 16), (4, 64)])
def test_it_finds_what_a_literal_search_finds(bits: int, group: int) -> None:
    w, x = layer(20)
    code = AWQ(bits=bits, group=group).encode(site(w, x))
    alpha, made, lost = literal(w, x, bits, group, 20)
    assert alpha > 0
    assert isinstance(code, Scaled)
    assert code.group == 1
    np.testing.assert_allclose(code.decode(), made, rtol=1e-5, atol=1e-6)
    moment = site(w, x).statistics[SecondMoment()]
    assert moment.energy(code.decode() - w) == pytest.approx(lost, rel=1e-3)
    plain = RTN(bits=bits, group=group).encode(site(w, x))
    assert lost < 0.7 * moment.energy(plain.decode() - w)


def test_without_outliers_it_is_rounding_to_nearest_and_costs_as_little() -> None:
    w, x = layer(1)
    plain, code = RTN(bits=4, group=16).encode(site(w, x)), AWQ(points=1, group=16).encode(site(w, x))
    assert isinstance(code, Grid)
    np.testing.assert_array_equal(code.q, plain.q)
    assert code.bits() == plain.bits()


def test_pruned_weights_stay_zero_and_silent_inputs_do_no_harm() -> None:
    w, x = layer(20)
    w[np.abs(w) < 0.5], x[:, 5] = 0, 0
    code = AWQ(bits=4, group=16).encode(site(w, x))
    assert not code.decode()[w == 0].any()
    assert np.abs(code.decode() - w)[:, 5].max() < 0.5
