"""Memory of results: `out` and what it must not overlap, read-only tapes, results that share no memory."""

from __future__ import annotations

from dataclasses import replace

import helpers
import numpy as np
import pytest
import small_calls
from small_calls import ARRAYS, run_forward

#: Every refusal has the same text whether or not compiled code could read the other arguments itself.
pytestmark = pytest.mark.usefixtures("both_ways")

case = small_calls.case


def out_array(case, **changes):
    return np.full(case.dy.shape, 0.375, **({"dtype": np.float32} | changes))


def test_out_is_written_and_returned(case):
    expected = case.forward()
    out = out_array(case)
    y, _ = run_forward(case, out=out)
    assert y is out
    helpers.assert_same_bits(out, expected["y"])


@pytest.mark.parametrize("tape", [False, True])
def test_out_that_is_a_view_is_written(case, tape):
    """The views are batch-major, reversed, and part of a larger array, whose other elements stay."""
    expected = case.forward()["y"]
    buffer = np.full((3, 9, 20), 0.375, np.float32)
    views = [buffer[:, 1:8, 2:11].swapaxes(0, 1), buffer[::-1, 7:0:-1, 11:].swapaxes(0, 1)]
    for view in views:
        run_forward(case, out=view, tape=tape)
        helpers.assert_same_bits(view.copy(), expected)
        view[...] = 0.375
        assert (buffer == 0.375).all()


#: Strides in numbers, for (T, B, D, N): steps or rows without overlap. The stride of an axis of length 1 is not used.
SEPARATE = [
    ((2, 3, 5, 9), (27, 9, 1)),
    ((1, 3, 5, 9), (0, 18, 1)),
    ((7, 1, 5, 9), (18, 0, 1)),
    ((7, 3, 5, 1), (6, 2, 5)),
]
OVERLAPPING = [
    ((2, 3, 5, 9), (18, 9, 1)),
    ((2, 3, 5, 9), (26, 9, 1)),
    ((7, 2, 5, 9), (27, 8, 1)),
    ((2, 3, 5, 9), (0, 9, 1)),
]


@pytest.mark.parametrize(("shape", "strides"), SEPARATE + OVERLAPPING)
def test_out_that_overlaps_itself_is_refused(shape, strides):
    case = helpers.random_case(shape, np.float32)
    buffer = np.full(300, 0.375, np.float32)
    out = np.lib.stride_tricks.as_strided(buffer, case.dy.shape, np.multiply(strides, 4))
    if (shape, strides) in SEPARATE:
        run_forward(case, out=out)
        helpers.assert_same_bits(out.copy(), case.forward()["y"])
    else:
        with pytest.raises(ValueError, match=r"^out: expected an aligned array with a contiguous last axis"):
            run_forward(case, out=out)
        assert (buffer == 0.375).all()


WRONG_OUTS = [
    (
        lambda case: out_array(case, dtype=np.float64),
        TypeError,
        "out: expected an array of float32, got .*float64",
    ),
    (lambda case: out_array(case).astype(">f4"), TypeError, "out: expected an array of float32, got .*>f4"),
    (lambda case: out_array(case).tolist(), TypeError, "out: expected an array of float32, got list"),
    (lambda case: out_array(case)[1:], ValueError, r"out: expected shape \(7, 3, 9\), got \(6, 3, 9\)"),
    (lambda case: out_array(case)[None], ValueError, r"out: expected shape \(7, 3, 9\), got \(1, 7, 3, 9\)"),
    (
        lambda case: np.asfortranarray(out_array(case)),
        ValueError,
        "out: expected an aligned array.*contiguous last axis",
    ),
    (
        lambda case: np.lib.stride_tricks.as_strided(out_array(case), (7, 3, 9), (0, 36, 4)),
        ValueError,
        "out: expected",
    ),
    (
        lambda case: np.lib.stride_tricks.as_strided(out_array(case), (7, 3, 9), (72, 24, 4)),
        ValueError,
        "out: expected",
    ),
]


@pytest.mark.parametrize(
    ("make_out", "kind", "text"), WRONG_OUTS,
    ids=["float64", "big-endian", "list", "fewer steps", "extra axis", "Fortran order", "stride 0", "overlapping rows"],
)  # fmt: skip
def test_wrong_out_is_refused_and_not_written(case, make_out, kind, text):
    out = make_out(case)
    with pytest.raises(kind, match=text):
        run_forward(case, out=out)
    assert (np.asarray(out) == 0.375).all()


def test_read_only_out_is_refused(case):
    out = out_array(case)
    out.flags.writeable = False
    with pytest.raises(ValueError, match="out: expected a writable array, got a read-only one"):
        run_forward(case, out=out)


@pytest.mark.parametrize("name", ARRAYS)
def test_out_that_overlaps_is_refused(case, name):
    shared = np.full(1000, 0.375, np.float32)
    size = case.dy.size
    array = getattr(case, name)
    shared[size - 1 : size - 1 + array.size] = array.ravel()
    before = shared.copy()
    overlapping = replace(case, **{name: shared[size - 1 : size - 1 + array.size].reshape(array.shape)})
    with pytest.raises(ValueError, match=f"^out shares memory with {name}: "):
        run_forward(overlapping, out=shared[:size].reshape(case.dy.shape))
    helpers.assert_same_bits(shared, before)


def test_out_in_interleaved_memory_is_written(case):
    """x and out have every other row of one buffer each, and share no byte."""
    buffer = np.full((7, 6, 9), 0.375, np.float32)
    case = helpers.random_case((7, 3, 9, 9), np.float32)
    buffer[:, ::2] = case.x
    arranged = replace(case, x=buffer[:, ::2])
    run_forward(arranged, out=buffer[:, 1::2])
    helpers.assert_same_bits(buffer[:, 1::2].copy(), case.forward()["y"])
    helpers.assert_same_bits(buffer[:, ::2].copy(), case.x)


def test_h_out_that_overlaps_out_is_refused(case):
    """A copy of h0 is the state, so that only the check prevents two results in one memory."""
    out = out_array(case)
    with pytest.raises(ValueError, match=r"^h_out shares memory with out: "):
        run_forward(case, out=out, h_out=out[-1])
    assert (out == 0.375).all()


@pytest.mark.parametrize("change", [{"bias": np.ones(5, np.float32)}, {"lengths": [9, 9, 9]}, {"activation": "?"}])
def test_refused_call_writes_nothing(case, change):
    out = out_array(case)
    with pytest.raises(ValueError, match="expected"):
        run_forward(replace(case, **change), out=out)
    assert (out == 0.375).all()


@pytest.mark.parametrize("recompute", [False, True])
def test_y_on_a_tape_is_read_only(case, recompute):
    y, h_n, tape = run_forward(case, tape=True, recompute=recompute)
    assert not y.flags.writeable
    assert h_n.flags.writeable
    assert run_forward(case)[0].flags.writeable
    assert run_forward(case, tape=True, recompute=recompute, out=out_array(case))[0].flags.writeable
    assert (tape.gates is None) == recompute
    with pytest.raises(ValueError, match="read-only"):
        y[0] = 0


def test_tape_has_gates_of_valid_steps_only(case):
    """A tape has 3 N numbers for each valid step, and none with recompute."""
    assert run_forward(case, tape=True)[2].gates.size == 3 * 9 * case.lengths.sum()
    assert run_forward(replace(case, lengths=None), tape=True)[2].gates.size == 3 * 9 * 7 * 3


def test_results_share_no_memory_with_arguments(case):
    """Without steps h_n is a copy of h0."""
    for each_case in (case, helpers.random_case((0, 3, 5, 9), np.float32)):
        for name, array in each_case.run().items():
            for other in each_case.arrays.values():
                assert not np.shares_memory(array, other), name
            assert array.flags.writeable or name == "y"
