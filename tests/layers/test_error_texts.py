"""Errors of arguments name the argument, what was expected, what was passed, and the fix, in this order.

The tests pin these values and their order, not the sentences around them.
"""

from __future__ import annotations

import re
import sys

import helpers
import numpy as np
import pytest
from layouts import Refusing, misaligned, read_only

from indygru_cpu import IndyGRU, functional

#: Every refusal has the same text whether or not compiled code could read the other arguments itself.
pytestmark = pytest.mark.usefixtures("both_ways")

CASE = helpers.random_case((7, 3, 5, 9), np.float32)
MAX_NUMBERS = sys.maxsize // 8


def forward(**changes):
    arguments = {name: getattr(CASE, name) for name in helpers.GRADIENTS} | changes
    return functional.forward(**arguments)


def step(**changes):
    weights = {name: getattr(CASE, name) for name in helpers.GRADIENTS[2:]}
    return functional.step(**{"x_t": CASE.x[0], "h": CASE.h0} | weights | changes)


def backward(*arguments, **options):
    return functional.backward(forward(tape=True)[2], *arguments, **options)


def ragged(offsets):
    return forward(x=CASE.x[:, 0], h0=None, offsets=offsets)


def broadcast(*shape):
    return np.broadcast_to(np.float32(0.5), shape)


def out_array(**options):
    return np.full((7, 3, 9), 0.375, **{"dtype": np.float32} | options)


#: A call, its error, the argument, the expected values, the value that was passed, and the fix if the text has one.
ACTIVATIONS = " ".join(helpers.ACTIVATIONS)
NUMBERS = [
    (lambda: forward(activation="gelu"), ValueError, "activation", ACTIVATIONS, "'gelu'"),
    (lambda: step(activation=3), ValueError, "activation", ACTIVATIONS, "3"),
    (lambda: IndyGRU(5, 9, dtype="float16"), TypeError, "dtype", "float32 float64", "'float16'"),
    (lambda: IndyGRU(5, 9, dtype="float99"), TypeError, "dtype", "float32 float64", "'float99'"),
    (lambda: IndyGRU(5, 9, dtype=None), TypeError, "dtype", "float32 float64", "None"),
    (lambda: forward(num_threads=1.5), TypeError, "num_threads", "integer", "1.5"),
    (lambda: backward(num_threads=True), TypeError, "num_threads", "integer", "True"),
    (lambda: forward(num_threads=0), ValueError, "num_threads", "1", "0"),
    (lambda: IndyGRU(True, 9), TypeError, "input_size", "integer", "True"),
    (lambda: IndyGRU(2**31, 9), ValueError, "input_size", "2147483647", "2147483648"),
    (lambda: forward(groups=2), ValueError, "groups", "N 9", "2"),
    (lambda: step(groups=2), ValueError, "groups", "N 9", "2"),
    (lambda: step(groups=0), ValueError, "groups", "1", "0"),
    (lambda: IndyGRU(5, 9, groups=3), ValueError, "groups", "input_size 5", "3"),
    (lambda: IndyGRU(5, 9, dropout="0"), TypeError, "dropout", "number", "'0'"),
    (lambda: IndyGRU(5, 9, dropout=False), TypeError, "dropout", "number", "False"),
    (lambda: IndyGRU(5, 9, dropout=np.False_), TypeError, "dropout", "number", repr(np.False_)),
    (lambda: IndyGRU(5, 9, dropout=1), ValueError, "dropout", "0 1", "1"),
    (lambda: IndyGRU(5, 9, dropout=-0.25), ValueError, "dropout", "0 1", "-0.25"),
    (
        lambda: IndyGRU(1, 1).last(broadcast(2**30, 2**31 - 1, 1)),
        ValueError, "x", str(MAX_NUMBERS), "(1073741824, 2147483647, 3)",
    ),
    (lambda: IndyGRU(1, 1).last(broadcast(1, 2**31, 1)), ValueError, "x", "2147483647", "2147483648"),
]  # fmt: skip
SHAPES = [
    (lambda: forward(x=CASE.x[0]), ValueError, "x", "shape (T, B, 5)", "(3, 5)"),
    (lambda: forward(bias=np.full(28, 0.5, np.float32)), ValueError, "bias", "shape (27,)", "(28,)"),
    (lambda: step(x_t=CASE.x), ValueError, "x_t", "shape (B, 5)", "(7, 3, 5)"),
    (lambda: step(x_t=CASE.x[0, :, 1:]), ValueError, "x_t", "shape (B, 5)", "(3, 4)"),
    (lambda: step(groups=3), ValueError, "x_t", "shape (B, 15)", "(3, 5)"),
    (lambda: step(h=CASE.h0[1:]), ValueError, "h", "shape (3, 9)", "(2, 9)"),
    (lambda: backward(CASE.dy[1:]), ValueError, "dy", "shape (7, 3, 9)", "(6, 3, 9)"),
    (lambda: backward(None, CASE.dh_n[1:]), ValueError, "dh_n", "shape (3, 9)", "(2, 9)"),
    (
        lambda: forward(kernel=np.empty((0, 3 * 2**30), np.float32)),
        ValueError, "kernel", "2147483647", "(0, 3221225472)",
    ),
    (
        lambda: forward(kernel=np.empty((2**31, 0), np.float32)),
        ValueError, "kernel", "2147483647", "(2147483648, 0)",
    ),
    (
        lambda: forward(kernel=np.empty((0, 2**31 - 1), np.float32)),
        ValueError, "kernel", "3N columns (r, z, candidate)", "2147483647",
    ),
    (
        lambda: forward(
            kernel=np.empty((2**31 - 1, 0), np.float32), recurrent_kernel=np.empty(0, np.float32), bias=None
        ),
        ValueError, "x", "shape (T, B, 2147483647)", "(7, 3, 5)",
    ),
]  # fmt: skip
ARRAYS = [
    (
        lambda: forward(x=CASE.x.astype(int)),
        TypeError, "x", "array float32 float64", str(np.dtype(int)), ".astype(np.float32)",
    ),
    (
        lambda: forward(x=[[[1]]]),
        TypeError, "x", "array float32 float64", str(np.dtype(int)), "np.asarray(x, np.float32)",
    ),
    (lambda: forward(x=Refusing(CASE.x)), TypeError, "x", "array", "Refusing", "refused by the test"),
    (lambda: functional.backward("tape"), TypeError, "tape", "forward(..., tape=True)", "str"),
]  # fmt: skip
OUTS = [
    (lambda: forward(out=np.ma.masked_array(out_array())), TypeError, "out", "array float32", "a masked"),
    (lambda: forward(out=out_array(dtype=np.float64)), TypeError, "out", "array float32", "array of float64"),
    (lambda: forward(out=out_array(dtype=">f4")), TypeError, "out", "array float32", "array of >f4"),
    (lambda: forward(out=[0.5]), TypeError, "out", "array float32", "list"),
    (lambda: forward(out=out_array()[1:]), ValueError, "out", "shape (7, 3, 9)", "(6, 3, 9)"),
    (lambda: forward(h_out=CASE.h0[1:].copy()), ValueError, "h_out", "shape (3, 9)", "(2, 9)"),
    (lambda: step(out=CASE.h0[1:].copy()), ValueError, "out", "shape (3, 9)", "(2, 9)"),
    (lambda: forward(out=read_only(out_array())), ValueError, "out", "writable array", "read-only"),
    (lambda: forward(out=out_array(order="F")), ValueError, "out", "aligned contiguous", "strides (4, 28, 84)"),
    (
        lambda: forward(out=misaligned(out_array())),
        ValueError, "out", "aligned contiguous", "strides (108, 36, 4)",
    ),
    (lambda: forward(out=out_array(), return_sequences=False), ValueError, "return_sequences", "tape out", "False"),
    (lambda: forward(tape=True, return_sequences=False), ValueError, "return_sequences", "tape out", "False"),
]  # fmt: skip
ROWS = [
    (lambda: forward(lengths=[3.0, 1.0, 2.0]), TypeError, "lengths", "integers", "float64"),
    (lambda: forward(lengths=[3, 1]), ValueError, "lengths", "shape (3,)", "(2,)"),
    (lambda: forward(lengths=[3, 8, 9]), ValueError, "lengths", "0 7", "8 for row 1"),
    (lambda: forward(lengths=[3, 7, -1]), ValueError, "lengths", "0 7", "-1 for row 2"),
    (lambda: ragged([0.0, 7.0]), TypeError, "offsets", "integers", "float64"),
    (lambda: ragged(7), ValueError, "offsets", "shape (B + 1,)", "()"),
    (lambda: ragged([[0, 7]]), ValueError, "offsets", "shape (B + 1,)", "(1, 2)"),
    (lambda: ragged(np.array([], int)), ValueError, "offsets", "shape (B + 1,)", "(0,)"),
    (lambda: ragged([0, 2, 8]), ValueError, "offsets", "0 7", "0 to 8"),
    (lambda: ragged([-1, 2, 7]), ValueError, "offsets", "0 7", "-1 to 7"),
    (lambda: ragged([0, 2, 5, 4, 3]), ValueError, "offsets", "values", "5, 4 for row 2"),
]
#: Errors that name what they refuse without "expected" and "got": the argument, and values in the order of the text.
OTHERS = [
    (
        lambda: forward(x=CASE.x.astype(">f8")),
        TypeError, "x", ["float64", "kernel", "float32", "x.astype(np.float32)"],
    ),
    (
        lambda: backward(CASE.dy.astype(np.float64)),
        TypeError, "dy", ["float64", "y", "float32", "dy.astype(np.float32)"],
    ),
    (
        lambda: forward(x=CASE.x.tolist()),
        TypeError, "x", ["float64", "kernel", "float32", "np.asarray(x, np.float32)"],
    ),
    (lambda: step(h=np.ma.masked_array(CASE.h0)), TypeError, "h", ["masked arrays", "lengths"]),
]  # fmt: skip


def error_text(call, kind):
    with pytest.raises(kind) as error:
        call()
    assert type(error.value) is kind
    return str(error.value)


@pytest.mark.parametrize(
    ("call", "kind", "argument", "expected", "got", "fix"),
    [
        pytest.param(*row, *[""] * (6 - len(row)), id=f"{row[2]}, got {row[4]}")
        for row in NUMBERS + SHAPES + ARRAYS + OUTS + ROWS
    ],
)
def test_refusal_names_argument_expected_and_got(call, kind, argument, expected, got, fix):
    helpers.assert_refusal(error_text(call, kind), argument, expected, got, fix)


@pytest.mark.parametrize(
    ("call", "kind", "argument", "values"), [pytest.param(*row, id=f"{row[2]}, {row[3][0]}") for row in OTHERS]
)
def test_refusal_without_expected_names_argument_and_values(call, kind, argument, values):
    text = error_text(call, kind)
    assert re.match(rf"{argument}(:| has )", text)
    assert re.search(helpers.in_order(*values), text.removeprefix(argument))
