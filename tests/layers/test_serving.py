"""Inference into memory that is there: out=, h_out=, `last`; what may overlap, and how much more memory it takes."""

from __future__ import annotations

import sys

import helpers
import numpy as np
import pytest
from oracles import CALL_LAYOUTS, STACKS, B, D, LayoutCall, N, T, make_layer, make_layer_call

from indygru_cpu import functional

forms = pytest.mark.parametrize("form", CALL_LAYOUTS)
stacks = pytest.mark.parametrize("options", STACKS, ids=str)


def inside(shape, dtype):
    """A view of this shape, backwards, with room around it and between all but its last axis; and the room."""
    room = np.full([*(2 * size + 3 for size in shape[:-1]), shape[-1] + 5], 0.375, dtype)
    view = room[(*(slice(2 * size, 0, -2) for size in shape[:-1]), slice(2, -3))]
    assert view.shape == shape
    return view, room


@stacks
@forms
def test_results_go_into_buffers(dtype, form, options):
    """Of any strides; what lies around them is left alone, and so is h0."""
    call = LayoutCall(form, dtype, **options)
    expected, before = call(), call.h0.copy()
    for name, result in (("out", "y"), ("h_out", "h_n")):
        view, room = inside(expected[result].shape, dtype)
        found = call(**{name: view})
        assert found[result] is view
        helpers.assert_same_bits({name: array.copy() for name, array in found.items()}, expected)
        view[...] = 0.375
        assert (room == 0.375).all()
    found = call(out=np.full_like(expected["y"], np.nan), h_out=np.full_like(expected["h_n"], np.nan))
    helpers.assert_same_bits(found, expected)
    helpers.assert_same_bits(call.h0, before)


@stacks
@forms
def test_states_in_place(dtype, form, options):
    """h_out may be h0 itself, also a view of something larger."""
    call = LayoutCall(form, dtype, **options)
    expected, (view, room) = call(), inside(call.h0.shape, dtype)
    view[...] = call.h0
    for h in (call.h0.copy(), view):
        found = call(h0=h, h_out=h)
        assert found["h_n"] is h
        helpers.assert_same_bits({name: array.copy() for name, array in found.items()}, expected)
    view[...] = 0.375
    assert (room == 0.375).all()


def test_states_in_place_with_a_tape(dtype):
    """It keeps a copy of the first ones."""
    case = helpers.random_case((9, 7, 8, 17), dtype)
    _, expected, tape = functional.forward(*case.arguments, tape=True)
    gradients, h = functional.backward(tape, case.dy), case.h0.copy()
    _, found, tape = functional.forward(case.x, h, *case.arguments[2:], h_out=h, tape=True)
    assert found is h
    helpers.assert_same_bits(found, expected)
    helpers.assert_same_bits(functional.backward(tape, case.dy)._asdict(), gradients._asdict())


def test_states_in_a_file(tmp_path):
    """A memory map is an array as others are."""
    call = LayoutCall("time first")
    expected = call()["h_n"]
    mapped = np.memmap(tmp_path / "state", np.float32, "w+", shape=call.h0.shape)
    mapped[...] = call.h0
    call(h0=mapped, h_out=mapped)
    helpers.assert_same_bits(np.array(mapped), expected)


@stacks
@pytest.mark.parametrize("form", CALL_LAYOUTS[:3])
def test_last(dtype, form, options):
    call = LayoutCall(form, dtype, **options)
    expected, h = call()["h_n"], call.h0.copy()
    helpers.assert_same_bits(call.last(), expected)
    assert call.last(h0=h, h_out=h) is h
    helpers.assert_same_bits(h, expected)


def test_last_of_no_steps():
    layer = make_layer(np.float32, num_layers=2)
    h0 = make_layer_call(layer)["h0"]
    h_n = layer.last(np.empty((0, B, D), np.float32), h0)
    helpers.assert_same_bits(h_n, h0)
    assert not np.shares_memory(h_n, h0)


@pytest.mark.parametrize("recompute", [False, True])
def test_a_tape_outlives_its_first_state(dtype, recompute):
    """h_out is h0, which backward needs: the gradients are those of the state that was there."""
    case = helpers.random_case((T, B, D, N), dtype, ragged=True)
    expected, h = case.run(recompute=recompute), case.h0.copy()
    _, h_n, tape = functional.forward(
        case.x, h, *case.arguments[2:], lengths=case.lengths, h_out=h, tape=True, recompute=recompute
    )
    found = functional.backward(tape, case.dy, case.dh_n)
    helpers.assert_same_bits({"h_n": h_n} | found._asdict(), {name: expected[name] for name in expected if name != "y"})


def test_functional_in_place():
    """h_out is h0: right where they lie apart from the rest, an error where not."""
    layer = make_layer(np.float32)
    call, weights = make_layer_call(layer), layer.parameters.values()
    x, h = call["x"], call["h0"][0].copy()
    expected = functional.forward(x, h, *weights)
    found = functional.forward(x, h, *weights, h_out=h)
    helpers.assert_same_bits(dict(enumerate(found)), dict(enumerate(expected)))
    assert found[1] is h
    room = np.full_like(h, 0.375)
    for h_out in (None, room, call["h0"][0]):
        nothing, h_n = functional.forward(x, call["h0"][0].copy(), *weights, h_out=h_out, return_sequences=False)
        assert nothing is None
        assert h_out is None or h_n is h_out
        helpers.assert_same_bits(h_n, expected[1])


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits the address space")
def test_memory_of_inference_does_not_grow_with_the_number_of_steps(run_script):
    run_script("layers/memory_of_inference.py", OPENBLAS_NUM_THREADS="1")
