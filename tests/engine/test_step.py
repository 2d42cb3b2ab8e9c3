"""One step: equal to forward, in place, without allocations; and denormal states."""

from __future__ import annotations

import sys
import tracemalloc
from dataclasses import replace

import helpers
import numpy as np
import pytest

from indygru_cpu import functional

#: Every refusal has the same text whether or not compiled code could read the other arguments itself.
pytestmark = pytest.mark.usefixtures("both_ways")

SHAPES = [(1, 1, 1), (1, 9, 7), (7, 8, 17), (8, 33, 9), (13, 300, 5), (33, 17, 130), (25, 7, 257)]


def step_case(shape, dtype, activation="tanh"):
    return helpers.random_case((1, *shape), dtype, activation)


def run_step(case, h=None, **options):
    h = case.h0 if h is None else h
    return functional.step(case.x[0], h, *case.arguments[2:], activation=case.activation, **options)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("activation", helpers.ACTIVATIONS)
def test_step_equals_the_reference_and_forward(tier, dtype, shape, activation):
    case = step_case(shape, dtype, activation)
    results = run_step(case)
    assert results.dtype == dtype
    assert helpers.scaled_error(results, case.expected()["h_n"]) <= helpers.bound("h_n", dtype)
    for whole in (case.forward(), case.forward(reproducible=True)):
        helpers.assert_same_bits(whole, {"y": results[None], "h_n": results})
    helpers.assert_same_bits(case.run(reproducible=True)["y"], results[None])


@pytest.mark.parametrize("shape", SHAPES)
def test_step_writes_into_out_of_any_strides(tier, dtype, shape):
    case = step_case(shape, dtype)
    expected, before = run_step(case), case.copy()
    out = np.full_like(case.h0, np.nan)
    assert run_step(case, out=out) is out
    helpers.assert_same_bits(out, expected)
    buffer = np.full((2 * shape[0], shape[2] + 3), 0.375, dtype)
    view = buffer[::2, 1:-2]
    assert run_step(case, out=view) is view
    helpers.assert_same_bits(view.copy(), expected)
    view[...] = 0.375
    assert (buffer == 0.375).all()
    helpers.assert_same_bits(case.arrays, before.arrays)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("layout", ["plain", "view"])
def test_step_in_place_has_same_bits(tier, dtype, shape, layout):
    case = step_case(shape, dtype)
    h = case.h0.copy() if layout == "plain" else np.repeat(case.h0, 2, axis=0)[::-2]
    expected = run_step(replace(case, h0=h.copy()))
    assert run_step(case, h, out=h) is h
    helpers.assert_same_bits(h.copy(), expected)


def test_missing_bias_is_zeros(dtype):
    case = step_case((7, 8, 17), dtype)
    helpers.assert_same_bits(run_step(replace(case, bias=None)), run_step(replace(case, bias=np.zeros_like(case.bias))))


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
def test_steps_in_place_allocate_no_array(dtype, bias):
    """The peak is a few small Python objects; the smallest array of this call is larger."""
    case = step_case((3, 900, 1201), dtype)
    case = case if bias else replace(case, bias=None)
    h = case.h0.copy()
    run_step(case, h, out=h)
    tracemalloc.start()
    try:
        for _ in range(50):
            run_step(case, h, out=h)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < case.x.nbytes <= min(h.nbytes, case.recurrent_kernel.nbytes)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_steps_do_not_grow_the_peak_of_memory(run_script):
    """A leaked state at each step would add 100 MB."""
    assert int(run_script("engine/memory_of_steps.py", OMP_NUM_THREADS="2")) < 20 << 20


@pytest.mark.parametrize("name", ["x_t", "h", "kernel", "recurrent_kernel", "bias"])
def test_out_that_overlaps_is_refused(name):
    case = step_case((6, 5, 5), np.float32)
    case = replace(case, x=case.x[:, :, :5])
    arrays = {"x_t": case.x[0], "h": case.h0} | {key: getattr(case, key) for key in helpers.GRADIENTS[2:]}
    shared = np.zeros(200, np.float32)
    out = shared[:30].reshape(6, 5)
    arrays[name] = shared[29 : 29 + arrays[name].size].reshape(arrays[name].shape)
    arrays[name][...] = 0.25
    before = shared.copy()
    for h in [arrays["h"]] if name == "h" else [arrays["h"], out]:  # also a result that is the state
        with pytest.raises(ValueError, match=f"^out shares memory with {name}: "):
            functional.step(**arrays | {"h": h}, out=out)
    helpers.assert_same_bits(shared, before)


def test_refused_step_writes_nothing(dtype):
    case = step_case((7, 8, 17), dtype)
    h = case.h0.copy()
    wrong = [
        {"x": case.x[:, :3]},
        {"kernel": case.kernel[:3]},
        {"bias": case.bias[1:]},
        {"activation": "gelu"},
    ]
    for change in wrong:
        with pytest.raises(ValueError, match=r"expected"):
            run_step(replace(case, **change), h, out=h)
        helpers.assert_same_bits(h, case.h0)


def decaying_case(dtype):
    """Zero inputs, and a state that halves at each step and would become denormal."""
    n_steps = 1300 if dtype == np.float64 else 250
    case = helpers.random_case((n_steps, 3, 4, 19), dtype, "identity")
    return replace(
        case,
        x=np.zeros_like(case.x),
        h0=np.full_like(case.h0, 0.75),
        recurrent_kernel=np.repeat(np.array([0, 0, -0.125], dtype), 19),
        bias=np.zeros_like(case.bias),
        dy=np.zeros_like(case.dy),
    )


def assert_no_denormals(arrays):
    for name, array in arrays.items():
        tiny = np.finfo(array.dtype).tiny
        assert not ((array != 0) & (np.abs(array) < tiny)).any(), name


def assert_caller_has_denormals():
    """The caller's floating-point state does not flush denormals."""
    with np.errstate(all="ignore"):
        assert np.float32(1e-40) * np.float32(1) != 0
        assert np.float32(1e-30) * np.float32(1e-10) != 0
        assert np.float64(1e-310) / np.float64(2) != 0


@pytest.mark.parametrize("recompute", [False, True])
def test_decaying_state_becomes_zero_without_denormals(tier, dtype, recompute):
    case = decaying_case(dtype)
    results = case.run(recompute=recompute)
    assert_caller_has_denormals()
    assert_no_denormals(results)
    y = results["y"]
    assert (y[100] != 0).all()
    assert not y[-1].any()
    assert not results["h0"].any()
    helpers.assert_close(results, case.expected(), dtype)


def test_decaying_state_of_steps_becomes_zero_without_denormals(tier, dtype):
    case = decaying_case(dtype)
    h = case.h0.copy()
    for x_t in case.x:
        functional.step(x_t, h, *case.arguments[2:], activation="identity", out=h)
        assert_no_denormals({"h": h})
    assert not h.any()
    assert_caller_has_denormals()


def test_parallel_call_leaves_the_callers_floating_point_state(dtype):
    case = helpers.random_case((60, 17, 9, 65), dtype)
    case.run(num_threads=2)
    assert_caller_has_denormals()
