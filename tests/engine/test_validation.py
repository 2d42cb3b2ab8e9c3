"""Wrong arguments: errors name the argument, the expected and the actual value. Outputs: test_validation_memory.py."""

from __future__ import annotations

import warnings
from dataclasses import replace

import helpers
import numpy as np
import pytest
import small_calls
from small_calls import ARRAYS, run_forward

from indygru_cpu import functional

#: Every refusal has the same text whether or not compiled code could read the other arguments itself.
pytestmark = pytest.mark.usefixtures("both_ways")

case = small_calls.case


def run_backward(case, **options):
    return functional.backward(run_forward(case, tape=True)[2], case.dy, case.dh_n, **options)


def run_step(case, **options):
    return functional.step(case.x[0], *case.arguments[1:], activation=case.activation, **options)


def run_pass_of(case, name):
    """The pass that takes the argument."""
    return run_backward(case) if name in ("dy", "dh_n") else run_forward(case)


@pytest.mark.parametrize("name", [*ARRAYS, "dy", "dh_n"])
@pytest.mark.parametrize("wrong", [np.float16, np.int64, np.int8, np.uint32, np.bool_, np.complex64, object, "U7"])
def test_other_dtypes_are_refused(case, name, wrong):
    value = getattr(case, name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        array = value.astype(wrong)
    with pytest.raises(TypeError, match=rf"^{name}\b.*float32 or float64.*got {array.dtype}.*astype\(np\.float32\)"):
        run_pass_of(replace(case, **{name: array}), name)


@pytest.mark.skipif(np.longdouble == np.float64, reason="long double is float64")
def test_long_double_is_refused(case):
    with pytest.raises(TypeError, match=f"x: .*got {np.dtype(np.longdouble)}"):
        run_forward(replace(case, x=case.x.astype(np.longdouble)))


@pytest.mark.parametrize("name", [*ARRAYS, "dy", "dh_n"])
def test_mixed_dtypes_are_refused(case, name):
    """The error names both arguments, both dtypes, and a cast."""
    for mixed in (case, case.astype(np.float64)):
        other = np.float64 if mixed is case else np.float32
        mixed = replace(mixed, **{name: getattr(mixed, name).astype(other)})
        with pytest.raises(
            TypeError, match=r"has dtype float\d\d, but \w+ has float\d\d.*never mixed.*astype"
        ) as error:
            run_pass_of(mixed, name)
        if name != "kernel":
            assert str(error.value).startswith(name)


def test_wrong_dtypes_of_step_are_refused(case):
    for name, argument in [
        ("x", "x_t"),
        ("h0", "h"),
        ("recurrent_kernel", "recurrent_kernel"),
        ("bias", "bias"),
    ]:
        with pytest.raises(TypeError, match=rf"^{argument} has dtype float64, but kernel has float32"):
            run_step(replace(case, **{name: getattr(case, name).astype(np.float64)}))
        with pytest.raises(TypeError, match=rf"^{argument}: .*got int64"):
            run_step(replace(case, **{name: getattr(case, name).astype(np.int64)}))


@pytest.mark.parametrize("name", [*ARRAYS, "dy", "dh_n"])
def test_masked_arrays_are_refused(case, name):
    with pytest.raises(TypeError, match=f"{name}: masked arrays are not supported.*lengths"):
        run_pass_of(replace(case, **{name: np.ma.masked_array(getattr(case, name))}), name)


@pytest.mark.parametrize("name", ["x", "kernel", "recurrent_kernel"])
def test_missing_arrays_are_refused(case, name):
    with pytest.raises(TypeError, match=f"{name}: expected an array"):
        run_forward(replace(case, **{name: None}))


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
def test_wrong_shapes_are_refused(case, name, shape, expected):
    array = np.full(shape, 0.5, np.float32)
    got = str(shape).replace("(", r"\(").replace(")", r"\)")
    with pytest.raises(ValueError, match=f"^{name}: expected shape {expected}, got {got}"):
        run_pass_of(replace(case, **{name: array}), name)


def test_kernel_without_three_gates_is_refused(case):
    with pytest.raises(ValueError, match=r"kernel: expected 3N columns .*got 26"):
        run_forward(replace(case, kernel=case.kernel[:, :26]))


def test_kernel_with_more_columns_than_blas_can_count_is_refused():
    """The array has no bytes."""
    wide = np.empty((0, 3 * 2**30), np.float32)
    x, u = np.empty((2, 1, 0), np.float32), np.full(3, 0.5, np.float32)
    with pytest.raises(ValueError, match=r"kernel: expected sizes up to 2147483647, got shape \(0, 3221225472\)"):
        functional.forward(x, None, wide, u, None)


def test_weights_of_zero_units_compute_or_name_the_kernel(run_script):
    printed = run_script("engine/zero_units.py")
    assert not printed or "kernel" in printed


@pytest.mark.parametrize("wrong", ["Tanh", "gelu", "", None, 3, np.tanh, ["tanh"]], ids=str)
def test_unknown_activation_is_refused(case, wrong):
    for call in (run_forward, run_step):
        with pytest.raises((ValueError, TypeError), match=r"activation: expected .*tanh, relu, .*mingru, got"):
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
def test_wrong_lengths_are_refused(case, wrong, kind, text):
    with pytest.raises(kind, match=f"lengths: .*{text}"):
        run_forward(replace(case, lengths=wrong))


@pytest.mark.parametrize("kind", [list, tuple, np.int8, np.uint64, ">i4", "strided"])
def test_lengths_of_any_integer_kind_have_same_bits(case, kind):
    before = case.lengths.copy()
    lengths = kind(case.lengths) if kind in (list, tuple) else case.lengths.astype(kind if kind != "strided" else int)
    if kind == "strided":
        lengths = np.repeat(lengths, 2)[::2]
    helpers.assert_same_bits(replace(case, lengths=lengths).run(), case.run())
    helpers.assert_same_bits(case.lengths, before)


def test_lengths_of_an_empty_batch_may_be_an_empty_list():
    case = helpers.random_case((4, 0, 3, 5), np.float32)
    assert replace(case, lengths=[]).forward()["y"].shape == (4, 0, 5)


def test_lengths_overwritten_before_backward_change_no_gradient(case):
    """The test makes lengths smaller: kernels that used a larger one would read past the end of the tape."""
    expected = case.run()
    lengths = case.lengths.copy()
    _, _, tape = run_forward(replace(case, lengths=lengths), tape=True)
    lengths[...] = 1
    results = functional.backward(tape, case.dy, case.dh_n)
    helpers.assert_same_bits(results._asdict(), {name: expected[name] for name in helpers.GRADIENTS})


def test_lists_are_float64_arrays():
    case = helpers.random_case((4, 2, 3, 5), np.float64)
    lists = replace(case, **{name: array.tolist() for name, array in case.arrays.items()})
    helpers.assert_same_bits(lists.run(), case.run())
    with pytest.raises(TypeError, match="x has dtype float64, but kernel has float32"):
        run_forward(replace(case.astype(np.float32), x=case.x.tolist()))


def test_lists_of_different_lengths_are_refused():
    """NumPy's own text does not name the argument."""
    case = helpers.random_case((2, 2, 3, 5), np.float64)
    with pytest.raises((TypeError, ValueError), match=r"\bx\b.*expected"):
        run_forward(replace(case, x=[[[0.5, 0.25, 0.125]], [[0.5, 0.25]]]))


@pytest.mark.parametrize("wrong", [None, (), "tape", 3])
def test_backward_without_a_tape_is_refused(wrong):
    with pytest.raises(TypeError, match=r"tape: expected what forward\(\.\.\., tape=True\) returned, got"):
        functional.backward(wrong)
