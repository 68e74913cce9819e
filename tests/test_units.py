import json
import math
import subprocess
import sys

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from rarefy import units
from rarefy.errors import FormatError, RarefyError, ResourceError, UsageError
from rarefy.units import Interval, Point

sizes = st.floats(0, 1e14, allow_nan=False)


def point(rate, distortion):
    return Point(rate, Interval(distortion, distortion, distortion))


def test_a_bit_is_the_log_of_two_nats():
    assert units.nats(1.0) == pytest.approx(0.69314718056)
    assert units.bits(units.nats(3.5)) == pytest.approx(3.5)
    np.testing.assert_allclose(units.bits(np.array([math.log(8)])), [3.0])


def test_information_and_entropy_are_those_of_scipy():
    counts = np.random.default_rng(0).integers(0, 9, 256)
    assert units.entropy(counts) == pytest.approx(scipy.stats.entropy(counts, base=2))
    assert units.entropy([0, 0]) == 0.0
    assert units.entropy([7]) == 0.0
    np.testing.assert_array_equal(units.information([0.5, 1.0, 0.0]), [1.0, 0.0, math.inf])


def test_bits_a_weight():
    assert units.bpw(500, 1000) == 4.0
    with pytest.raises(ValueError, match="at least one weight"):
        units.bpw(500, 0)


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 bytes"),
        (1, "1 byte"),
        (999, "999 bytes"),
        (999.6, "1.00 KB"),
        (8_561, "8.56 KB"),
        (9_996, "10.0 KB"),
        (999_600, "1.00 MB"),
        (67_400_000, "67.4 MB"),
        (269_000_000, "269 MB"),
        (1.2e9, "1.20 GB"),
        (5e15, "5000 TB"),
    ],
)
def test_sizes_are_decimal(size, text):
    assert units.human(size) == text


@given(sizes)
def test_a_size_keeps_three_digits(size):
    number, unit = units.human(size).split()
    scale = {"byte": 1, "bytes": 1, "KB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12}[unit]
    assert float(number) * scale == pytest.approx(size, rel=0.0051, abs=0.5)


def test_perplexity_overflows_to_infinity():
    assert units.perplexity(math.log(20)) == pytest.approx(20)
    assert units.perplexity(1e9) == math.inf


def test_an_interval_travels_as_json():
    interval = Interval(0.5, -math.inf, 1.0)
    assert json.loads(json.dumps(interval.as_json(), allow_nan=False)) == {
        "value": 0.5,
        "low": None,
        "high": 1.0,
    }
    assert 0.75 in interval
    assert 1.25 not in interval
    assert str(Interval(0.12345, 0.1, 0.2)) == "0.1235 [0.1, 0.2]"


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), max_size=12))
def test_the_frontier_is_what_nothing_dominates(pairs):
    points = [point(*pair) for pair in pairs]
    undominated = {(r, d) for r, d in pairs if not any(a <= r and b <= d and (a, b) != (r, d) for a, b in pairs)}
    assert [(p.rate, p.distortion.value) for p in units.frontier(points)] == sorted(undominated)


def test_errors_are_one_line():
    error = RarefyError("cannot write\nout", "the disk is full.", "free 120 MB")
    assert str(error) == "cannot write out: the disk is full; free 120 MB"
    assert str(RarefyError("cannot write")) == "cannot write"
    assert UsageError("x").status == 2
    assert {FormatError("x").status, ResourceError("x").status} == {1}
    assert all(issubclass(kind, RarefyError) for kind in (UsageError, FormatError, ResourceError))


def test_units_and_errors_do_without_torch():
    program = "import sys, rarefy.units, rarefy.errors, rarefy.measure.rate; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
