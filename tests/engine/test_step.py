"""One step for streams: equal to forward, in place, without memory of its own; and what denormals do."""

from __future__ import annotations

import sys
import tracemalloc
from dataclasses import replace

import helpers
import numpy as np
import pytest

from indygru_cpu import functional

SHAPES = [(1, 1, 1), (1, 9, 7), (7, 8, 17), (8, 33, 9), (13, 300, 5), (33, 17, 130), (25, 7, 257)]


def step_case(shape, dtype, activation="tanh"):
    return helpers.random_case((1, *shape), dtype, activation)


def step(case, h=None, **options):
    h = case.h0 if h is None else h
    return functional.step(case.x[0], h, *case.arguments[2:], activation=case.activation, **options)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("activation", helpers.ACTIVATIONS)
def test_equals_the_reference_and_forward(tier, dtype, shape, activation):
    case = step_case(shape, dtype, activation)
    found = step(case)
    assert found.dtype == dtype
    assert helpers.scaled_error(found, case.expected()["h_n"]) <= helpers.bound("h_n", dtype)
    for whole in (case.forward(), case.forward(reproducible=True)):
        helpers.assert_same_bits(whole, {"y": found[None], "h_n": found})
    helpers.assert_same_bits(case.run(reproducible=True)["y"], found[None])


@pytest.mark.parametrize("shape", SHAPES)
def test_out(tier, dtype, shape):
    case = step_case(shape, dtype)
    expected, before = step(case), case.copy()
    out = np.full_like(case.h0, np.nan)
    assert step(case, out=out) is out
    helpers.assert_same_bits(out, expected)
    room = np.full((2 * shape[0], shape[2] + 3), 0.375, dtype)
    view = room[::2, 1:-2]
    assert step(case, out=view) is view
    helpers.assert_same_bits(view.copy(), expected)
    view[...] = 0.375
    assert (room == 0.375).all()
    helpers.assert_same_bits(case.arrays, before.arrays)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("layout", ["plain", "view"])
def test_in_place(tier, dtype, shape, layout):
    case = step_case(shape, dtype)
    h = case.h0.copy() if layout == "plain" else np.repeat(case.h0, 2, axis=0)[::-2]
    expected = step(replace(case, h0=h.copy()))
    assert step(case, h, out=h) is h
    helpers.assert_same_bits(h.copy(), expected)


def test_bias_may_be_none(dtype):
    case = step_case((7, 8, 17), dtype)
    helpers.assert_same_bits(step(replace(case, bias=None)), step(replace(case, bias=np.zeros_like(case.bias))))


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
def test_a_stream_allocates_nothing(dtype, bias):
    """The peak is a few small Python objects: the smallest array of this call is larger."""
    case = step_case((3, 900, 1201), dtype)
    case = case if bias else replace(case, bias=None)
    h = case.h0.copy()
    step(case, h, out=h)
    tracemalloc.start()
    try:
        for _ in range(50):
            step(case, h, out=h)
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
    for h in [arrays["h"]] if name == "h" else [arrays["h"], out]:  # a result that is the state, too
        with pytest.raises(ValueError, match=f"^out shares memory with {name}: give it memory of its own$"):
            functional.step(**arrays | {"h": h}, out=out)
    helpers.assert_same_bits(shared, before)


def test_nothing_is_written_on_error(dtype):
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
            step(replace(case, **change), h, out=h)
        helpers.assert_same_bits(h, case.h0)


def decaying(dtype):
    """A state in silence that halves at each step and would be denormal before the end."""
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
    """In the caller's floating-point state they are numbers like others."""
    with np.errstate(all="ignore"):
        assert np.float32(1e-40) * np.float32(1) != 0
        assert np.float32(1e-30) * np.float32(1e-10) != 0
        assert np.float64(1e-310) / np.float64(2) != 0


@pytest.mark.parametrize("recompute", [False, True])
def test_a_decaying_state_ends_at_zero(tier, dtype, recompute):
    case = decaying(dtype)
    found = case.run(recompute=recompute)
    assert_caller_has_denormals()
    assert_no_denormals(found)
    y = found["y"]
    assert (y[100] != 0).all()
    assert not y[-1].any()
    assert not found["h0"].any()
    helpers.assert_close(found, case.expected(), dtype)


def test_a_decaying_stream_ends_at_zero(tier, dtype):
    case = decaying(dtype)
    h = case.h0.copy()
    for x_t in case.x:
        functional.step(x_t, h, *case.arguments[2:], activation="identity", out=h)
        assert_no_denormals({"h": h})
    assert not h.any()
    assert_caller_has_denormals()


def test_threads_leave_the_floating_point_state_alone(dtype):
    case = helpers.random_case((60, 17, 9, 65), dtype)
    case.run(num_threads=2)
    assert_caller_has_denormals()
