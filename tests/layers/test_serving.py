"""Inference into existing memory: out=, h_out=, `last`; what may overlap, and how much memory it takes."""

from __future__ import annotations

import sys

import helpers
import numpy as np
import pytest
from oracles import CALL_LAYOUTS, STACKS, B, D, LayoutCall, N, T, make_layer, make_layer_call

from indygru_cpu import functional

layouts = pytest.mark.parametrize("layout", CALL_LAYOUTS)
stacks = pytest.mark.parametrize("options", STACKS, ids=str)


def strided_view(shape, dtype):
    """A reversed view of this shape with gaps around it and between all but its last axis; and the whole buffer."""
    buffer = np.full([*(2 * size + 3 for size in shape[:-1]), shape[-1] + 5], 0.375, dtype)
    view = buffer[(*(slice(2 * size, 0, -2) for size in shape[:-1]), slice(2, -3))]
    assert view.shape == shape
    return view, buffer


@stacks
@layouts
def test_results_are_written_into_buffers_of_any_strides(dtype, layout, options):
    """Elements around the buffers, and h0, stay as they were."""
    call = LayoutCall(layout, dtype, **options)
    expected, before = call(), call.h0.copy()
    for name, result in (("out", "y"), ("h_out", "h_n")):
        view, buffer = strided_view(expected[result].shape, dtype)
        results = call(**{name: view})
        assert results[result] is view
        helpers.assert_same_bits({name: array.copy() for name, array in results.items()}, expected)
        view[...] = 0.375
        assert (buffer == 0.375).all()
    results = call(out=np.full_like(expected["y"], np.nan), h_out=np.full_like(expected["h_n"], np.nan))
    helpers.assert_same_bits(results, expected)
    helpers.assert_same_bits(call.h0, before)


@stacks
@layouts
def test_h_out_that_is_h0_has_same_bits(dtype, layout, options):
    """h0 is an array, and a view of a larger one."""
    call = LayoutCall(layout, dtype, **options)
    expected, (view, buffer) = call(), strided_view(call.h0.shape, dtype)
    view[...] = call.h0
    for h in (call.h0.copy(), view):
        results = call(h0=h, h_out=h)
        assert results["h_n"] is h
        helpers.assert_same_bits({name: array.copy() for name, array in results.items()}, expected)
    view[...] = 0.375
    assert (buffer == 0.375).all()


def test_h_out_that_is_h0_with_a_tape_has_same_gradients(dtype):
    """The tape has a copy of the initial state."""
    case = helpers.random_case((9, 7, 8, 17), dtype)
    _, expected, tape = functional.forward(*case.arguments, tape=True)
    gradients, h = functional.backward(tape, case.dy), case.h0.copy()
    _, results, tape = functional.forward(case.x, h, *case.arguments[2:], h_out=h, tape=True)
    assert results is h
    helpers.assert_same_bits(results, expected)
    helpers.assert_same_bits(functional.backward(tape, case.dy)._asdict(), gradients._asdict())


def test_states_in_a_memory_map_are_updated(tmp_path):
    call = LayoutCall("time first")
    expected = call()["h_n"]
    mapped = np.memmap(tmp_path / "state", np.float32, "w+", shape=call.h0.shape)
    mapped[...] = call.h0
    call(h0=mapped, h_out=mapped)
    helpers.assert_same_bits(np.array(mapped), expected)


@stacks
@pytest.mark.parametrize("layout", CALL_LAYOUTS[:3])
def test_last_returns_the_states_of_a_call(dtype, layout, options):
    call = LayoutCall(layout, dtype, **options)
    expected, h = call()["h_n"], call.h0.copy()
    helpers.assert_same_bits(call.last(), expected)
    assert call.last(h0=h, h_out=h) is h
    helpers.assert_same_bits(h, expected)


def test_last_of_no_steps_is_a_copy_of_h0():
    layer = make_layer(np.float32, num_layers=2)
    h0 = make_layer_call(layer)["h0"]
    h_n = layer.last(np.empty((0, B, D), np.float32), h0)
    helpers.assert_same_bits(h_n, h0)
    assert not np.shares_memory(h_n, h0)


@pytest.mark.parametrize("recompute", [False, True])
def test_tape_of_a_state_overwritten_by_h_out_has_same_gradients(dtype, recompute):
    """backward needs the initial state h0, which h_out overwrites."""
    case = helpers.random_case((T, B, D, N), dtype, ragged=True)
    expected, h = case.run(recompute=recompute), case.h0.copy()
    _, h_n, tape = functional.forward(
        case.x, h, *case.arguments[2:], lengths=case.lengths, h_out=h, tape=True, recompute=recompute
    )
    results = functional.backward(tape, case.dy, case.dh_n)
    helpers.assert_same_bits(
        {"h_n": h_n} | results._asdict(), {name: expected[name] for name in expected if name != "y"}
    )


def test_functional_h_out_that_is_h0_has_same_bits():
    layer = make_layer(np.float32)
    call, weights = make_layer_call(layer), layer.parameters.values()
    x, h = call["x"], call["h0"][0].copy()
    expected = functional.forward(x, h, *weights)
    results = functional.forward(x, h, *weights, h_out=h)
    helpers.assert_same_bits(dict(enumerate(results)), dict(enumerate(expected)))
    assert results[1] is h
    buffer = np.full_like(h, 0.375)
    for h_out in (None, buffer, call["h0"][0]):
        y, h_n = functional.forward(x, call["h0"][0].copy(), *weights, h_out=h_out, return_sequences=False)
        assert y is None
        assert h_out is None or h_n is h_out
        helpers.assert_same_bits(h_n, expected[1])


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits the address space")
def test_memory_of_inference_does_not_grow_with_the_number_of_steps(run_script):
    run_script("layers/memory_of_inference.py", OPENBLAS_NUM_THREADS="1")
