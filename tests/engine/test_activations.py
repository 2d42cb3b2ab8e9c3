"""Accuracy of sigmoid and the activations, in units in the last place (ULP), and their special values."""

from __future__ import annotations

import helpers
import numpy as np
import pytest
from activation_accuracy import LOWEST, ULP, arguments, assert_within_ulp

from indygru_cpu._engine import _core

FUSED = {np.float32: "float", np.float64: "double"}


def activate(name, values, dtype):
    x = np.array(values, dtype).ravel()
    out = np.full_like(x, 0.125)
    _core.testing.activate[FUSED[dtype]](x, out, helpers.ACTIVATIONS.index(name))
    return out


@pytest.mark.parametrize("name", helpers.ACTIVATIONS)
def test_activation_is_within_its_ulp_bound(tier, dtype, name):
    assert_within_ulp(name, dtype, activate(name, arguments(dtype), dtype))


@pytest.mark.parametrize("name", helpers.ACTIVATIONS)
def test_activation_at_any_position_of_a_vector_has_same_bits(tier, dtype, name):
    """Whole vectors and the scalar remainder of a loop agree."""
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
    "mingru": (0, np.inf),
}


@pytest.mark.parametrize("name", helpers.ACTIVATIONS)
def test_activation_of_infinities_and_nan_is_its_limit(tier, dtype, name):
    results = activate(name, [-np.inf, np.inf, np.nan, -np.nan], dtype)
    np.testing.assert_array_equal(results, np.array([*SPECIAL[name], np.nan, np.nan], dtype))


@pytest.mark.parametrize("name", ["tanh", "identity", "elu", "softsign"])
def test_odd_activation_of_zero_keeps_its_sign(tier, dtype, name):
    helpers.assert_same_bits(activate(name, [0.0, -0.0], dtype), np.array([0.0, -0.0], dtype))


def test_relu_and_sigmoid_of_zero_are_zero_and_half(tier, dtype):
    np.testing.assert_array_equal(activate("relu", [0.0, -0.0], dtype), np.zeros(2, dtype))
    np.testing.assert_array_equal(activate("sigmoid", [0.0, -0.0], dtype), np.full(2, 0.5, dtype))


@pytest.mark.parametrize("name", ["tanh", "sigmoid", "elu", "softsign", "mingru"])
def test_activation_saturates_exactly_and_stays_in_its_range(tier, dtype, name):
    low, high = {"tanh": (-1, 1), "sigmoid": (0, 1), "elu": (-1, np.inf), "softsign": (-1, 1), "mingru": (0, np.inf)}[
        name
    ]
    results = activate(name, arguments(dtype), dtype)
    assert results.min() >= low
    assert results.max() <= high
    if name in ("tanh", "sigmoid"):
        beyond = [40, 100, 710, 1e4, np.finfo(dtype).max]
        np.testing.assert_array_equal(activate(name, beyond, dtype), np.full(5, high, dtype))
    if name in ("tanh", "elu"):
        beyond = [-40, -100, -710, -1e4, np.finfo(dtype).min]
        np.testing.assert_array_equal(activate(name, beyond, dtype), np.full(5, low, dtype))


def test_sigmoid_of_very_negative_values_is_below_the_smallest_normal_number(tier, dtype):
    results = activate("sigmoid", np.array([LOWEST[dtype] - 1, LOWEST[dtype] * 2, np.finfo(dtype).min]), dtype)
    assert ((results >= 0) & (results <= np.finfo(dtype).tiny)).all()


@pytest.mark.parametrize("name", ["tanh", "sigmoid", "elu", "softsign", "mingru", "relu", "identity"])
def test_activation_is_monotonic_within_its_accuracy(tier, dtype, name):
    """A larger argument gives a result that is smaller by at most the two errors together."""
    x = np.sort(arguments(dtype))
    results = activate(name, x, dtype)
    drop = np.maximum.accumulate(results)[:-1] - results[1:]
    assert (drop <= 2 * ULP[name] * np.spacing(np.abs(results[1:]))).all()
