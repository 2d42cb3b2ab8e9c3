"""Accuracy of sigmoid and the activations, in units in the last place (ULP), and their special values."""

from __future__ import annotations

from functools import cache

import helpers
import numpy as np
import pytest

from indygru_cpu import reference
from indygru_cpu._engine import _core

#: Largest error in ULP of the true value, over every normal result; relu and identity are exact.
ULP = {"tanh": 3, "sigmoid": 3, "elu": 2, "softsign": 2, "relu": 0, "identity": 0}
FUSED = {np.float32: "float", np.float64: "double"}
#: For truth: at least 11 more bits than the dtype, where the platform has such a type.
WIDER = {np.float32: np.float64, np.float64: np.longdouble}
WIDE_ENOUGH = {dtype: np.finfo(wider).nmant > np.finfo(dtype).nmant for dtype, wider in WIDER.items()}
#: sigmoid and exp(x) - 1 are normal numbers or exactly -1 down to here.
LOWEST = {np.float32: -87, np.float64: -708}


def activate(name, values, dtype):
    x = np.array(values, dtype).ravel()
    out = np.full_like(x, 0.125)
    _core.testing.activate[FUSED[dtype]](x, out, helpers.ACTIVATIONS.index(name))
    return out


@cache
def arguments(dtype):
    """All sizes from the smallest normal number to saturation, both signs, denser where functions bend."""
    rng = np.random.default_rng(1)
    tiny = np.log10(np.finfo(dtype).tiny)
    sizes = np.concatenate([
        10 ** rng.uniform(tiny, np.log10(-LOWEST[dtype]), 60_000), rng.uniform(0, 1, 60_000),
        rng.uniform(0, 25, 60_000), rng.uniform(0, -LOWEST[dtype], 60_000),
        np.arange(1, 25) * np.log(2), np.arange(1, 50) * np.log(2) / 2,
    ])  # fmt: skip
    return np.concatenate([sizes, -sizes]).astype(dtype)


@cache
def truth(name, dtype):
    """The reference's function in the wider type; sigmoid as 1 / (1 + e^-x), exact enough there."""
    x = arguments(dtype).astype(WIDER[dtype])
    if name == "sigmoid":
        return 1 / (1 + np.exp(-x))
    return np.asarray(reference.ACTIVATIONS[name][0](x))


@pytest.mark.parametrize("name", helpers.ACTIVATIONS)
def test_accuracy(tier, dtype, name):
    expected = truth(name, dtype)
    unit = np.spacing(np.abs(expected).astype(dtype)).astype(expected.dtype)
    error = np.abs(activate(name, arguments(dtype), dtype) - expected) / unit
    worst = error.argmax()
    allowed = ULP[name] + (0 if WIDE_ENOUGH[dtype] else 1)
    assert error[worst] <= allowed, f"{name}({arguments(dtype)[worst]}): {error[worst]:.2f} ULP"


@pytest.mark.parametrize("name", helpers.ACTIVATIONS)
def test_same_bits_wherever_in_a_vector(tier, dtype, name):
    """Whole vectors and the scalar tail agree: a number's bits depend on nothing beside it."""
    x = np.random.default_rng(2).uniform(-9, 9, 61).astype(dtype)
    together = activate(name, x, dtype)
    for start in range(1, 34):
        helpers.assert_same_bits(activate(name, x[start:], dtype), together[start:])
    helpers.assert_same_bits(np.concatenate([activate(name, [value], dtype) for value in x]), together)


SPECIAL = {
    "tanh": (-1, 1),
    "relu": (0, np.inf),
    "sigmoid": (0, 1),
    "identity": (-np.inf, np.inf),
    "elu": (-1, np.inf),
    "softsign": (np.nan, np.nan),
}


@pytest.mark.parametrize("name", helpers.ACTIVATIONS)
def test_infinities_and_nan(tier, dtype, name):
    found = activate(name, [-np.inf, np.inf, np.nan, -np.nan], dtype)
    np.testing.assert_array_equal(found, np.array([*SPECIAL[name], np.nan, np.nan], dtype))


@pytest.mark.parametrize("name", ["tanh", "identity", "elu", "softsign"])
def test_zero_keeps_its_sign(tier, dtype, name):
    helpers.assert_same_bits(activate(name, [0.0, -0.0], dtype), np.array([0.0, -0.0], dtype))


def test_zero_elsewhere(tier, dtype):
    np.testing.assert_array_equal(activate("relu", [0.0, -0.0], dtype), np.zeros(2, dtype))
    np.testing.assert_array_equal(activate("sigmoid", [0.0, -0.0], dtype), np.full(2, 0.5, dtype))


@pytest.mark.parametrize("name", ["tanh", "sigmoid", "elu", "softsign"])
def test_saturation_is_exact_and_stays_in_range(tier, dtype, name):
    low, high = {"tanh": (-1, 1), "sigmoid": (0, 1), "elu": (-1, np.inf), "softsign": (-1, 1)}[name]
    found = activate(name, arguments(dtype), dtype)
    assert found.min() >= low
    assert found.max() <= high
    if name in ("tanh", "sigmoid"):
        beyond = [40, 100, 710, 1e4, np.finfo(dtype).max]
        np.testing.assert_array_equal(activate(name, beyond, dtype), np.full(5, high, dtype))
    if name in ("tanh", "elu"):
        beyond = [-40, -100, -710, -1e4, np.finfo(dtype).min]
        np.testing.assert_array_equal(activate(name, beyond, dtype), np.full(5, low, dtype))


def test_sigmoid_far_below_is_next_to_nothing(tier, dtype):
    found = activate("sigmoid", np.array([LOWEST[dtype] - 1, LOWEST[dtype] * 2, np.finfo(dtype).min]), dtype)
    assert ((found >= 0) & (found <= np.finfo(dtype).tiny)).all()


@pytest.mark.parametrize("name", ["tanh", "sigmoid", "elu", "softsign", "relu", "identity"])
def test_monotonic_within_its_accuracy(tier, dtype, name):
    """A larger argument never gives a result that is smaller by more than the two errors together."""
    x = np.sort(arguments(dtype))
    found = activate(name, x, dtype)
    drop = np.maximum.accumulate(found)[:-1] - found[1:]
    assert (drop <= 2 * ULP[name] * np.spacing(np.abs(found[1:]))).all()
