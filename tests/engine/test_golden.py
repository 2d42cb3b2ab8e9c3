"""The fast code against the original cell's numbers, on every tier."""

from __future__ import annotations

import helpers
import numpy as np
import pytest

from indygru_cpu import functional

pytestmark = pytest.mark.usefixtures("tier")
ways = pytest.mark.parametrize(
    "options",
    [{}, {"recompute": True}, {"reproducible": True}],
    ids=lambda options: next(iter(options), "default"),
)


@pytest.mark.parametrize("name", helpers.golden_names())
@ways
def test_equals_the_original(name, options):
    case, expected, twin, meta = helpers.golden(name)
    saturated = meta["inputs_kind"] == "sat"
    found = case.run(**options)
    found = {key: found[key] for key in expected}
    helpers.assert_close(found, expected, meta["dtype"], saturated)
    if twin:
        helpers.assert_close(found, {key: twin[key] for key in found}, meta["dtype"], saturated)
    for key, array in case.forward(reproducible=options.get("reproducible", False)).items():
        assert helpers.scaled_error(array, expected[key]) <= helpers.bound(key, meta["dtype"])


@pytest.mark.parametrize("name", [name for name in helpers.golden_names() if "cell" in name or "unit" in name])
def test_step_equals_the_original(name):
    case, expected, _, meta = helpers.golden(name)
    found = functional.step(case.x[0], *case.arguments[1:], activation=case.activation)
    assert found.dtype == meta["dtype"]
    assert helpers.scaled_error(found, expected["h_n"]) <= helpers.bound("h_n", meta["dtype"])


def test_step_through_a_whole_sequence():
    case, expected, *_ = helpers.golden("steps100_f64")
    h = case.h0
    for x_t, y_t in zip(case.x, expected["y"], strict=True):
        h = functional.step(x_t, h, *case.arguments[2:])
        assert helpers.scaled_error(h, y_t) <= 1e-12


def test_the_smoke_test_of_the_original():
    """The two rows of numbers that every copy of the original's unit test prints."""
    for name, expected in [("root", [0.185265, 0.17704]), ("other", [0.155127, 0.157328])]:
        case = helpers.golden(f"unit_test_{name}_f32").case
        np.testing.assert_allclose(case.forward()["y"].ravel(), expected, atol=1e-6)
