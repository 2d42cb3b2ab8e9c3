"""Where results are written: `out` and what it must not overlap, tapes that are read-only, no memory shared."""

from __future__ import annotations

from dataclasses import replace

import helpers
import numpy as np
import pytest
import small_calls
from small_calls import ARRAYS, forward

case = small_calls.case


def out_for(case, **changes):
    return np.full(case.dy.shape, 0.375, **({"dtype": np.float32} | changes))


def test_out_is_honoured(case):
    expected = case.forward()
    out = out_for(case)
    y, _ = forward(case, out=out)
    assert y is out
    helpers.assert_same_bits(out, expected["y"])


@pytest.mark.parametrize("tape", [False, True])
def test_out_may_be_a_view(case, tape):
    """Batch-major, reversed, part of something larger; what lies around it is left alone."""
    expected = case.forward()["y"]
    room = np.full((3, 9, 20), 0.375, np.float32)
    views = [room[:, 1:8, 2:11].swapaxes(0, 1), room[::-1, 7:0:-1, 11:].swapaxes(0, 1)]
    for view in views:
        forward(case, out=view, tape=tape)
        helpers.assert_same_bits(view.copy(), expected)
        view[...] = 0.375
        assert (room == 0.375).all()


#: Strides in numbers, for (T, B, D, N): steps or rows beside each other; where there is one of them they mean nothing.
APART = [((2, 3, 5, 9), (27, 9, 1)), ((1, 3, 5, 9), (0, 18, 1)), ((7, 1, 5, 9), (18, 0, 1)), ((7, 3, 5, 1), (6, 2, 5))]
OVERLAPPING = [
    ((2, 3, 5, 9), (18, 9, 1)),
    ((2, 3, 5, 9), (26, 9, 1)),
    ((7, 2, 5, 9), (27, 8, 1)),
    ((2, 3, 5, 9), (0, 9, 1)),
]


@pytest.mark.parametrize(("shape", "strides"), APART + OVERLAPPING)
def test_out_may_not_overlap_itself(shape, strides):
    case = helpers.random_case(shape, np.float32)
    room = np.full(300, 0.375, np.float32)
    out = np.lib.stride_tricks.as_strided(room, case.dy.shape, np.multiply(strides, 4))
    if (shape, strides) in APART:
        forward(case, out=out)
        helpers.assert_same_bits(out.copy(), case.forward()["y"])
    else:
        with pytest.raises(ValueError, match=r"^out: expected an aligned array with a contiguous last axis"):
            forward(case, out=out)
        assert (room == 0.375).all()


WRONG_OUTS = [
    (
        lambda case: out_for(case, dtype=np.float64),
        TypeError,
        "out: expected an array of float32, got .*float64",
    ),
    (lambda case: out_for(case).astype(">f4"), TypeError, "out: expected an array of float32, got .*>f4"),
    (lambda case: out_for(case).tolist(), TypeError, "out: expected an array of float32, got list"),
    (lambda case: out_for(case)[1:], ValueError, r"out: expected shape \(7, 3, 9\), got \(6, 3, 9\)"),
    (lambda case: out_for(case)[None], ValueError, r"out: expected shape \(7, 3, 9\), got \(1, 7, 3, 9\)"),
    (
        lambda case: np.asfortranarray(out_for(case)),
        ValueError,
        "out: expected an aligned array.*contiguous last axis",
    ),
    (
        lambda case: np.lib.stride_tricks.as_strided(out_for(case), (7, 3, 9), (0, 36, 4)),
        ValueError,
        "out: expected",
    ),
    (
        lambda case: np.lib.stride_tricks.as_strided(out_for(case), (7, 3, 9), (72, 24, 4)),
        ValueError,
        "out: expected",
    ),
]


@pytest.mark.parametrize(("make", "kind", "text"), WRONG_OUTS)
def test_wrong_outs(case, make, kind, text):
    out = make(case)
    with pytest.raises(kind, match=text):
        forward(case, out=out)
    assert (np.asarray(out) == 0.375).all()


def test_read_only_out_is_refused(case):
    out = out_for(case)
    out.flags.writeable = False
    with pytest.raises(ValueError, match="out: expected a writable array, got a read-only one"):
        forward(case, out=out)


@pytest.mark.parametrize("name", ARRAYS)
def test_out_that_overlaps_is_refused(case, name):
    shared = np.full(1000, 0.375, np.float32)
    size = case.dy.size
    array = getattr(case, name)
    shared[size - 1 : size - 1 + array.size] = array.ravel()
    before = shared.copy()
    overlapping = replace(case, **{name: shared[size - 1 : size - 1 + array.size].reshape(array.shape)})
    with pytest.raises(ValueError, match=f"^out shares memory with {name}: give it memory of its own$"):
        forward(overlapping, out=shared[:size].reshape(case.dy.shape))
    helpers.assert_same_bits(shared, before)


def test_interleaved_memory_does_not_overlap(case):
    """Every other row of one buffer each: neighbours, but no shared byte."""
    room = np.full((7, 6, 9), 0.375, np.float32)
    case = helpers.random_case((7, 3, 9, 9), np.float32)
    room[:, ::2] = case.x
    laid = replace(case, x=room[:, ::2])
    forward(laid, out=room[:, 1::2])
    helpers.assert_same_bits(room[:, 1::2].copy(), case.forward()["y"])
    helpers.assert_same_bits(room[:, ::2].copy(), case.x)


def test_h_out_that_overlaps_out_is_refused(case):
    """A copy of h0 is the state, so that only the check prevents two results in one memory."""
    out = out_for(case)
    with pytest.raises(ValueError, match=r"^h_out shares memory with out: "):
        forward(case, out=out, h_out=out[-1])
    assert (out == 0.375).all()


@pytest.mark.parametrize("change", [{"bias": np.ones(5, np.float32)}, {"lengths": [9, 9, 9]}, {"activation": "?"}])
def test_nothing_is_written_on_error(case, change):
    out = out_for(case)
    with pytest.raises(ValueError, match="expected"):
        forward(replace(case, **change), out=out)
    assert (out == 0.375).all()


@pytest.mark.parametrize("recompute", [False, True])
def test_y_on_a_tape_is_read_only(case, recompute):
    y, h_n, tape = forward(case, tape=True, recompute=recompute)
    assert not y.flags.writeable
    assert h_n.flags.writeable
    assert forward(case)[0].flags.writeable
    assert forward(case, tape=True, recompute=recompute, out=out_for(case))[0].flags.writeable
    assert (tape.gates is None) == recompute
    with pytest.raises(ValueError, match="read-only"):
        y[0] = 0


def test_a_tape_holds_no_gates_of_padding(case):
    """3 N numbers for each valid step, as promised; with recompute none."""
    assert forward(case, tape=True)[2].gates.size == 3 * 9 * case.lengths.sum()
    assert forward(replace(case, lengths=None), tape=True)[2].gates.size == 3 * 9 * 7 * 3


def test_results_share_no_memory_with_arguments(case):
    """Zero steps and full ones: h_n is no view of h0, gradients none of what came in."""
    for shown in (case, helpers.random_case((0, 3, 5, 9), np.float32)):
        for name, array in shown.run().items():
            for other in shown.arrays.values():
                assert not np.shares_memory(array, other), name
            assert array.flags.writeable or name == "y"
