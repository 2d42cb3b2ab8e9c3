"""Wrong arguments: errors that name the argument, what was expected and what came; nothing half changed."""

from __future__ import annotations

import warnings
from dataclasses import replace

import helpers
import numpy as np
import pytest

from indygru_cpu import functional

SHAPE = (7, 3, 5, 9)
ARRAYS = list(helpers.GRADIENTS)


@pytest.fixture
def case():
    return helpers.random_case(SHAPE, np.float32, ragged=True)


def forward(case, **options):
    return functional.forward(*case.arguments, **case.options, **options)


def backward(case, **options):
    return functional.backward(forward(case, tape=True)[2], case.dy, case.dh_n, **options)


def step(case, **options):
    return functional.step(case.x[0], *case.arguments[1:], activation=case.activation, **options)


def run(case, name):
    """The call that takes the argument."""
    return backward(case) if name in ("dy", "dh_n") else forward(case)


@pytest.mark.parametrize("name", [*ARRAYS, "dy", "dh_n"])
@pytest.mark.parametrize("wrong", [np.float16, np.int64, np.int8, np.uint32, np.bool_, np.complex64, object, "U7"])
def test_other_dtypes_are_refused(case, name, wrong):
    value = getattr(case, name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        array = value.astype(wrong)
    with pytest.raises(TypeError, match=rf"^{name}\b.*float32 or float64.*got {array.dtype}.*astype\(np\.float32\)"):
        run(replace(case, **{name: array}), name)


@pytest.mark.skipif(np.longdouble == np.float64, reason="the same type here")
def test_long_double_is_refused(case):
    with pytest.raises(TypeError, match=f"x: .*got {np.dtype(np.longdouble)}"):
        forward(replace(case, x=case.x.astype(np.longdouble)))


@pytest.mark.parametrize("name", [*ARRAYS, "dy", "dh_n"])
def test_mixtures_are_refused(case, name):
    """The error names both arguments and both dtypes, and how to cast."""
    for mixed in (case, case.astype(np.float64)):
        other = np.float64 if mixed is case else np.float32
        mixed = replace(mixed, **{name: getattr(mixed, name).astype(other)})
        with pytest.raises(
            TypeError, match=r"has dtype float\d\d, but \w+ has float\d\d.*never mixed.*astype"
        ) as error:
            run(mixed, name)
        if name != "kernel":
            assert str(error.value).startswith(name)


def test_step_refuses_the_same(case):
    for name, argument in [
        ("x", "x_t"),
        ("h0", "h"),
        ("recurrent_kernel", "recurrent_kernel"),
        ("bias", "bias"),
    ]:
        with pytest.raises(TypeError, match=rf"^{argument} has dtype float64, but kernel has float32"):
            step(replace(case, **{name: getattr(case, name).astype(np.float64)}))
        with pytest.raises(TypeError, match=rf"^{argument}: .*got int64"):
            step(replace(case, **{name: getattr(case, name).astype(np.int64)}))


@pytest.mark.parametrize("name", [*ARRAYS, "dy", "dh_n"])
def test_masked_arrays_are_refused(case, name):
    with pytest.raises(TypeError, match=f"{name}: masked arrays are not supported.*lengths"):
        run(replace(case, **{name: np.ma.masked_array(getattr(case, name))}), name)


@pytest.mark.parametrize("name", ["x", "kernel", "recurrent_kernel"])
def test_none_is_refused(case, name):
    with pytest.raises(TypeError, match=f"{name}: expected an array"):
        forward(replace(case, **{name: None}))


SHAPES = [
    ("x", (7, 3, 4), r"\(T, B, 5\)"),
    ("x", (7, 5), r"\(T, B, 5\)"),
    ("x", (1, 7, 3, 5), r"\(T, B, 5\)"),
    ("h0", (2, 9), r"\(3, 9\)"),
    ("h0", (3, 8), r"\(3, 9\)"),
    ("h0", (1, 9), r"\(3, 9\)"),
    ("h0", (9,), r"\(3, 9\)"),
    ("h0", (1, 3, 9), r"\(3, 9\)"),
    ("kernel", (27,), r"\(D, 3N\)"),
    ("kernel", (1, 5, 27), r"\(D, 3N\)"),
    ("recurrent_kernel", (9,), r"\(27,\)"),
    ("recurrent_kernel", (1, 27), r"\(27,\)"),
    ("bias", (28,), r"\(27,\)"),
    ("bias", (3, 9), r"\(27,\)"),
    ("dy", (7, 3, 8), r"\(7, 3, 9\)"),
    ("dy", (3, 9), r"\(7, 3, 9\)"),
    ("dh_n", (3, 10), r"\(3, 9\)"),
    ("dh_n", (9,), r"\(3, 9\)"),
]


@pytest.mark.parametrize(("name", "shape", "expected"), SHAPES)
def test_wrong_shapes(case, name, shape, expected):
    array = np.full(shape, 0.5, np.float32)
    got = str(shape).replace("(", r"\(").replace(")", r"\)")
    with pytest.raises(ValueError, match=f"^{name}: expected shape {expected}, got {got}"):
        run(replace(case, **{name: array}), name)


def test_kernel_needs_three_gates(case):
    with pytest.raises(ValueError, match=r"kernel: expected 3N columns .*got 26"):
        forward(replace(case, kernel=case.kernel[:, :26]))


def test_more_columns_than_blas_can_count():
    """A clear error, from an array of no bytes."""
    wide = np.empty((0, 3 * 2**30), np.float32)
    x, u = np.empty((2, 1, 0), np.float32), np.full(3, 0.5, np.float32)
    with pytest.raises(ValueError, match=r"kernel: expected sizes up to 2147483647, got shape \(0, 3221225472\)"):
        functional.forward(x, None, wide, u, None)


def test_no_units_do_no_harm(run_python):
    """Zero units give empty arrays or an error. In a process of its own, because it once crashed."""
    code = """
        import numpy as np
        from indygru_cpu import functional
        x, kernel, none = np.full((4, 3, 5), 0.5), np.empty((5, 0)), np.empty(0)
        try:
            y, h_n, tape = functional.forward(x, None, kernel, none, none, tape=True)
            gradients = functional.backward(tape)
            assert (y.shape, h_n.shape, gradients.kernel.shape) == ((4, 3, 0), (3, 0), (5, 0))
            assert gradients.x.shape == x.shape and not gradients.x.any()
            functional.step(x[0], h_n, kernel, none, none)
        except ValueError as error:
            assert "kernel" in str(error)
    """
    run_python(code)


@pytest.mark.parametrize("wrong", ["Tanh", "gelu", "", None, 3, np.tanh, ["tanh"]], ids=str)
def test_unknown_activation(case, wrong):
    for call in (forward, step):
        with pytest.raises((ValueError, TypeError), match=r"activation: expected .*tanh, relu, .*softsign, got"):
            call(replace(case, activation=wrong))


@pytest.mark.parametrize(
    ("wrong", "kind", "text"),
    [
        ([3, 8, 1], ValueError, "from 0 to 7, got 8 for row 1"),
        ([3, 1, -1], ValueError, "from 0 to 7, got -1 for row 2"),
        (
            np.array([2**63 + 5, 1, 1], np.uint64),
            ValueError,
            "from 0 to 7, got 9223372036854775813 for row 0",
        ),
        ([3, 1], ValueError, r"expected shape \(3,\), got \(2,\)"),
        ([[3], [1], [2]], ValueError, r"expected shape \(3,\), got \(3, 1\)"),
        (3, ValueError, r"expected shape \(3,\), got \(\)"),
        ([3.0, 1.0, 2.0], TypeError, "expected integers, got float64"),
        ([True, False, True], TypeError, "expected integers, got bool"),
        (["3", "1", "2"], TypeError, "expected integers, got"),
    ],
)
def test_wrong_lengths(case, wrong, kind, text):
    with pytest.raises(kind, match=f"lengths: .*{text}"):
        forward(replace(case, lengths=wrong))


@pytest.mark.parametrize("kind", [list, tuple, np.int8, np.uint64, ">i4", "strided"])
def test_lengths_of_any_integer_kind(case, kind):
    before = case.lengths.copy()
    lengths = kind(case.lengths) if kind in (list, tuple) else case.lengths.astype(kind if kind != "strided" else int)
    if kind == "strided":
        lengths = np.repeat(lengths, 2)[::2]
    helpers.assert_same_bits(replace(case, lengths=lengths).run(), case.run())
    helpers.assert_same_bits(case.lengths, before)


def test_lengths_of_an_empty_batch():
    case = helpers.random_case((4, 0, 3, 5), np.float32)
    assert replace(case, lengths=[]).forward()["y"].shape == (4, 0, 5)


def test_the_tape_keeps_its_own_lengths(case):
    """What the caller does to the lengths between forward and backward changes nothing.

    They only get smaller here: kernels that believed in a larger one would read past the end of the tape.
    """
    expected = case.run()
    lengths = case.lengths.copy()
    _, _, tape = forward(replace(case, lengths=lengths), tape=True)
    lengths[...] = 1
    found = functional.backward(tape, case.dy, case.dh_n)
    helpers.assert_same_bits(found._asdict(), {name: expected[name] for name in helpers.GRADIENTS})


def test_lists_are_arrays_of_float64():
    case = helpers.random_case((4, 2, 3, 5), np.float64)
    lists = replace(case, **{name: array.tolist() for name, array in case.arrays.items()})
    helpers.assert_same_bits(lists.run(), case.run())
    with pytest.raises(TypeError, match="x has dtype float64, but kernel has float32"):
        forward(replace(case.astype(np.float32), x=case.x.tolist()))


def test_ragged_lists_are_refused():
    """NumPy's own words do not say which argument it was."""
    case = helpers.random_case((2, 2, 3, 5), np.float64)
    with pytest.raises((TypeError, ValueError), match=r"\bx\b.*expected"):
        forward(replace(case, x=[[[0.5, 0.25, 0.125]], [[0.5, 0.25]]]))


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


@pytest.mark.parametrize("wrong", [None, (), "tape", 3])
def test_backward_needs_a_tape(wrong):
    with pytest.raises(TypeError, match=r"tape: expected what forward\(\.\.\., tape=True\) returned, got"):
        functional.backward(wrong)


def test_results_share_no_memory_with_arguments(case):
    """Zero steps and full ones: h_n is no view of h0, gradients none of what came in."""
    for shown in (case, helpers.random_case((0, 3, 5, 9), np.float32)):
        for name, array in shown.run().items():
            for other in shown.arrays.values():
                assert not np.shares_memory(array, other), name
            assert array.flags.writeable or name == "y"
