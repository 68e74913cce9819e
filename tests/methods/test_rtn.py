"""Round to nearest against one weight at a time."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rarefy.codes import Dense
from rarefy.errors import UsageError
from rarefy.evidence import Site
from rarefy.methods.quantize.rtn import RTN


def site(w: np.ndarray) -> Site:
    return Site("w", "linear", "s", Dense.of(w))


def literal(w: np.ndarray, bits: int, group: int, symmetric: bool, dtype: str) -> tuple[np.ndarray, np.ndarray]:
    """Integers and values, weight by weight. group: 0 a row, -1 the tensor."""
    rows, columns = w.shape
    q, values = np.zeros(w.shape, int), np.zeros(w.shape, np.float32)
    for i in range(rows):
        for j in range(columns):
            if group == -1:
                own = w
            else:
                size = group or columns
                own = w[i, j // size * size : (j // size + 1) * size]
            low, high = min(own.min(), np.float32(0)), max(own.max(), np.float32(0))
            levels = np.float32(2**bits - 1)
            scale = (2 * max(-low, high) if symmetric else high - low) / levels
            if dtype == "BF16":
                scale = torch.tensor(scale).bfloat16().float().numpy()
            elif dtype == "F16":
                scale = np.float32(np.float16(scale))
            scale = scale if scale > 0 else np.float32(1)
            zero = 2 ** (bits - 1) if symmetric else int(np.clip(np.rint(-low / scale), 0, levels))
            q[i, j] = np.clip(np.rint(w[i, j] / scale) + zero, 0, levels)
            values[i, j] = np.float32(q[i, j] - zero) * scale
    return q, values


@settings(max_examples=40, deadline=None)
@given(
    st.tuples(st.integers(1, 5), st.integers(1, 20)),
    st.integers(2, 8),
    st.sampled_from([-1, 0, 1, 3, 4, 64]),
    st.booleans(),
    st.sampled_from(["BF16", "F16", "F32"]),
    st.integers(0, 9),
)
def test_integers_and_values_are_the_literal_ones(shape, bits, group, symmetric, dtype, seed) -> None:
    random = np.random.default_rng(seed)
    w = (random.standard_t(3, size=shape) * random.choice([0.01, 1, 30])).astype(np.float32)
    w[random.random(shape) < 0.1] = 0
    code = RTN(bits=bits, group=group, symmetric=symmetric, scale=dtype).encode(site(w))
    q, values = literal(w, bits, group, symmetric, dtype)
    np.testing.assert_array_equal(code.q, q)
    np.testing.assert_array_equal(code.decode(), values)
    assert (values[w == 0] == 0).all()


def test_scales_are_as_many_as_asked_for() -> None:
    w = np.random.default_rng(0).normal(size=(6, 10)).astype(np.float32)
    shapes = {group: RTN(group=group).encode(site(w)).scale.shape for group in (-1, 0, 4, 10, 64)}
    assert RTN(group=10**12).encode(site(w)).scale.shape == (6, 1)
    assert shapes == {-1: (1, 1), 0: (6, 1), 4: (6, 3), 10: (6, 1), 64: (6, 1)}


def test_a_convolution_keeps_its_shape_and_groups_its_inputs() -> None:
    w = np.random.default_rng(0).normal(size=(4, 3, 2, 2)).astype(np.float32)
    code = RTN(bits=3, group=5).encode(site(w))
    assert code.shape == code.decode().shape == (4, 3, 2, 2)
    np.testing.assert_array_equal(code.q, literal(w.reshape(4, 12), 3, 5, False, "BF16")[0])


def test_a_network_on_the_grid_comes_back_bit_for_bit() -> None:
    random = np.random.default_rng(0)
    q = random.integers(0, 16, (8, 64))
    q[:, ::32], q[:, 1::32] = 0, 15
    w = ((q - 7) * np.float32(0.5)).astype(np.float32)
    np.testing.assert_array_equal(RTN(bits=4, group=32).encode(site(w)).decode(), w)


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"bits": 1}, "bits=1: it must be at least 2"),
        ({"bits": 9}, "bits=9: it must be at most 8"),
        ({"bits": 4.5}, "bits=4.5: it must be an integer"),
        ({"group": -2}, "group=-2: it must be at least -1"),
        ({"scale": "F64"}, "scale='F64': it must be one of BF16, F16, F32"),
        ({"symmetric": 1}, "symmetric=1: it must be true or false"),
    ],
)
def test_wrong_settings(given: dict, why: str) -> None:
    with pytest.raises(UsageError, match=f"quantize.rtn: {why}"):
        RTN(**given)
