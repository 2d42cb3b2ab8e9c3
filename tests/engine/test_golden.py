"""The compiled code against the original cell's numbers, on every tier."""

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
def test_results_equal_the_original_cells(name, options):
    case, expected, twin, meta = helpers.golden(name)
    saturated = meta["inputs_kind"] == "sat"
    results = case.run(**options)
    results = {key: results[key] for key in expected}
    helpers.assert_close(results, expected, meta["dtype"], saturated)
    if twin:
        helpers.assert_close(results, {key: twin[key] for key in results}, meta["dtype"], saturated)
    for key, array in case.forward(reproducible=options.get("reproducible", False)).items():
        assert helpers.scaled_error(array, expected[key]) <= helpers.bound(key, meta["dtype"])


@pytest.mark.parametrize("name", [name for name in helpers.golden_names() if "cell" in name or "unit" in name])
def test_step_equals_the_original_cells(name):
    case, expected, _, meta = helpers.golden(name)
    results = functional.step(case.x[0], *case.arguments[1:], activation=case.activation)
    assert results.dtype == meta["dtype"]
    assert helpers.scaled_error(results, expected["h_n"]) <= helpers.bound("h_n", meta["dtype"])


def test_steps_of_a_sequence_equal_the_original_cells():
    case, expected, *_ = helpers.golden("steps100_f64")
    h = case.h0
    for x_t, y_t in zip(case.x, expected["y"], strict=True):
        h = functional.step(x_t, h, *case.arguments[2:])
        assert helpers.scaled_error(h, y_t) <= 1e-12


def test_results_equal_the_numbers_of_the_originals_unit_test():
    """Every copy of the original's unit test has these two rows of numbers."""
    for name, expected in [("root", [0.185265, 0.17704]), ("other", [0.155127, 0.157328])]:
        case = helpers.golden(f"unit_test_{name}_f32").case
        np.testing.assert_allclose(case.forward()["y"].ravel(), expected, atol=1e-6)
