"""The reference against the original cell's numbers, and its gradients against finite differences."""

from __future__ import annotations

from dataclasses import replace

import helpers
import numpy as np
import pytest

from indygru_cpu import reference


def run_reference(case):
    y, h_n, tape = reference.forward(*case.arguments, **case.options)
    return {"y": y, "h_n": h_n} | reference.backward(tape, case.dy, case.dh_n)._asdict()


@pytest.mark.parametrize("name", helpers.golden_names())
def test_reference_equals_the_original_cell(name):
    case, expected, twin, meta = helpers.golden(name)
    results = run_reference(case)
    results = {key: results[key] for key in expected}
    helpers.assert_close(results, expected, meta["dtype"], meta["inputs_kind"] == "sat")
    if twin:
        helpers.assert_close(results, {key: twin[key] for key in results}, meta["dtype"], meta["inputs_kind"] == "sat")


def test_golden_cases_are_complete():
    cases = [helpers.golden(name) for name in helpers.golden_names()]
    assert len(cases) == 79
    assert {case.meta["activation"] for case in cases} == set(helpers.COMMON_ACTIVATIONS)
    assert sum("x" in case.expected for case in cases) >= 60
    assert sum(case.case.lengths is not None for case in cases) >= 18
    assert sum(bool(case.twin) for case in cases) >= 30


@pytest.mark.parametrize("ragged", [False, True], ids=["full", "ragged"])
@pytest.mark.parametrize("activation", helpers.ACTIVATIONS)
def test_gradients_of_the_reference_equal_finite_differences(activation, ragged):
    case = helpers.random_case((4, 3, 2, 5), np.float64, activation, ragged)
    results = run_reference(case)

    def loss(**changed):
        y, h_n, _ = reference.forward(*replace(case, **changed).arguments, **case.options)
        return (y * case.dy).sum() + (h_n * case.dh_n).sum()

    step = 1e-5
    for name in helpers.GRADIENTS:
        value = getattr(case, name)
        expected = np.empty_like(value)
        for place in np.ndindex(value.shape):
            change = np.zeros_like(value)
            change[place] = step
            expected[place] = (loss(**{name: value + change}) - loss(**{name: value - change})) / (2 * step)
        assert np.abs(results[name] - expected).max() < 1e-8, name


@pytest.mark.parametrize("activation", helpers.ACTIVATIONS)
def test_reference_keeps_the_dtype(activation, dtype):
    for name, array in run_reference(helpers.random_case((3, 2, 4, 5), dtype, activation, ragged=True)).items():
        assert array.dtype == dtype, name


def test_one_step_of_the_reference_equals_the_formula():
    """All weights differ, so that no exchange of gates passes."""
    x, h, (w_r, w_z, w_c), (u_r, u_z, u_c), (b_r, b_z, b_c) = (
        0.7,
        -0.4,
        (0.3, -1.1, 0.9),
        (0.8, 0.2, -0.6),
        (0.1, 0.5, -0.2),
    )
    r = 1 / (1 + np.exp(-(x * w_r + u_r * h + b_r)))
    z = 1 / (1 + np.exp(-(x * w_z + u_z * h + b_z)))
    c = np.tanh(x * w_c + u_c * (r * h) + b_c)
    y, h_n, _ = reference.forward(
        np.array([[[x]]]), np.array([[h]]), np.array([[w_r, w_z, w_c]]), np.array([u_r, u_z, u_c]),
        np.array([b_r, b_z, b_c]),
    )  # fmt: skip
    assert y.item() == h_n.item() == pytest.approx(z * h + (1 - z) * c, rel=1e-15)
