"""The whole text of each error of an argument: a change of a word, or a value that is quoted wrongly, is seen here."""

from __future__ import annotations

import sys

import helpers
import numpy as np
import pytest
from layouts import Refusing, misaligned, read_only

from indygru_cpu import IndyGRU, functional

CASE = helpers.random_case((7, 3, 5, 9), np.float32)
MOST = sys.maxsize // 8


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


def out(**options):
    return np.full((7, 3, 9), 0.375, **{"dtype": np.float32} | options)


ACTIVATION = "activation: expected one of tanh, relu, sigmoid, identity, elu, softsign, got "
NUMBERS = [
    (lambda: forward(activation="gelu"), ValueError, ACTIVATION + "'gelu'"),
    (lambda: step(activation=3), ValueError, ACTIVATION + "3"),
    (lambda: IndyGRU(5, 9, dtype="float16"), TypeError, "dtype: expected float32 or float64, got 'float16'"),
    (lambda: IndyGRU(5, 9, dtype="float99"), TypeError, "dtype: expected float32 or float64, got 'float99'"),
    (lambda: IndyGRU(5, 9, dtype=None), TypeError, "dtype: expected float32 or float64, got None"),
    (lambda: forward(num_threads=1.5), TypeError, "num_threads: expected an integer, got 1.5"),
    (lambda: backward(num_threads=True), TypeError, "num_threads: expected an integer, got True"),
    (lambda: forward(num_threads=0), ValueError, "num_threads: expected at least 1, got 0"),
    (lambda: IndyGRU(True, 9), TypeError, "input_size: expected an integer, got True"),
    (lambda: IndyGRU(2**31, 9), ValueError, "input_size: expected at most 2147483647, got 2147483648"),
    (lambda: forward(groups=2), ValueError, "groups: expected a divisor of N 9, got 2"),
    (lambda: step(groups=2), ValueError, "groups: expected a divisor of N 9, got 2"),
    (lambda: step(groups=0), ValueError, "groups: expected at least 1, got 0"),
    (lambda: IndyGRU(5, 9, groups=3), ValueError, "groups: expected a divisor of input_size 5, got 3"),
    (lambda: IndyGRU(5, 9, dropout="0"), TypeError, "dropout: expected a number, got '0'"),
    (lambda: IndyGRU(5, 9, dropout=False), TypeError, "dropout: expected a number, got False"),
    (lambda: IndyGRU(5, 9, dropout=np.False_), TypeError, f"dropout: expected a number, got {np.False_!r}"),
    (lambda: IndyGRU(5, 9, dropout=1), ValueError, "dropout: expected at least 0 and less than 1, got 1"),
    (lambda: IndyGRU(5, 9, dropout=-0.25), ValueError, "dropout: expected at least 0 and less than 1, got -0.25"),
    (
        lambda: IndyGRU(1, 1).last(broadcast(2**30, 2**31 - 1, 1)),
        ValueError,
        f"x and its gates: expected sizes with a product of at most {MOST}, got (1073741824, 2147483647, 3)",
    ),
    (
        lambda: IndyGRU(1, 1).last(broadcast(1, 2**31, 1)),
        ValueError,
        "x: expected at most 2147483647 rows, got 2147483648",
    ),
]
SHAPES = [
    (lambda: forward(x=CASE.x[0]), ValueError, "x: expected shape (T, B, 5), got (3, 5)"),
    (lambda: forward(bias=np.full(28, 0.5, np.float32)), ValueError, "bias: expected shape (27,), got (28,)"),
    (lambda: step(x_t=CASE.x), ValueError, "x_t: expected shape (B, 5), got (7, 3, 5)"),
    (lambda: step(x_t=CASE.x[0, :, 1:]), ValueError, "x_t: expected shape (B, 5), got (3, 4)"),
    (lambda: step(groups=3), ValueError, "x_t: expected shape (B, 15), got (3, 5)"),
    (lambda: step(h=CASE.h0[1:]), ValueError, "h: expected shape (3, 9), got (2, 9)"),
    (lambda: backward(CASE.dy[1:]), ValueError, "dy: expected shape (7, 3, 9), got (6, 3, 9)"),
    (lambda: backward(None, CASE.dh_n[1:]), ValueError, "dh_n: expected shape (3, 9), got (2, 9)"),
    (
        lambda: forward(kernel=np.empty((0, 3 * 2**30), np.float32)),
        ValueError,
        "kernel: expected sizes up to 2147483647, got shape (0, 3221225472)",
    ),
    (
        lambda: forward(kernel=np.empty((2**31, 0), np.float32)),
        ValueError,
        "kernel: expected sizes up to 2147483647, got shape (2147483648, 0)",
    ),
]
COLUMNS = [
    (
        lambda: forward(kernel=np.empty((0, 2**31 - 1), np.float32)),
        ValueError,
        "kernel: expected 3N columns (r, z, candidate), got 2147483647",
    ),
    (
        lambda: forward(
            kernel=np.empty((2**31 - 1, 0), np.float32), recurrent_kernel=np.empty(0, np.float32), bias=None
        ),
        ValueError,
        "x: expected shape (T, B, 2147483647), got (7, 3, 5)",
    ),
]
ARRAYS = [
    (
        lambda: forward(x=CASE.x.astype(int)),
        TypeError,
        f"x: expected an array of float32 or float64, got {np.dtype(int)}: cast it with .astype(np.float32)",
    ),
    (
        lambda: forward(x=CASE.x.astype(">f8")),
        TypeError,
        "x has dtype float64, but kernel has float32: dtypes are never mixed; "
        "cast one of them, such as x.astype(np.float32)",
    ),
    (
        lambda: backward(CASE.dy.astype(np.float64)),
        TypeError,
        "dy has dtype float64, but y has float32: dtypes are never mixed; "
        "cast one of them, such as dy.astype(np.float32)",
    ),
    (
        lambda: forward(x=Refusing(CASE.x)),
        TypeError,
        "x: expected an array, got Refusing, which NumPy cannot take: not today",
    ),
    (
        lambda: step(h=np.ma.masked_array(CASE.h0)),
        TypeError,
        "h: masked arrays are not supported: fill it, or use lengths",
    ),
    (
        lambda: functional.backward("tape"),
        TypeError,
        "tape: expected what forward(..., tape=True) returned, got str",
    ),
]
OUTS = [
    (lambda: forward(out=np.ma.masked_array(out())), TypeError, "out: expected an array of float32, got a masked one"),
    (
        lambda: forward(out=out(dtype=np.float64)),
        TypeError,
        "out: expected an array of float32, got an array of float64",
    ),
    (lambda: forward(out=out(dtype=">f4")), TypeError, "out: expected an array of float32, got an array of >f4"),
    (lambda: forward(out=[0.5]), TypeError, "out: expected an array of float32, got list"),
    (lambda: forward(out=out()[1:]), ValueError, "out: expected shape (7, 3, 9), got (6, 3, 9)"),
    (lambda: forward(h_out=CASE.h0[1:].copy()), ValueError, "h_out: expected shape (3, 9), got (2, 9)"),
    (lambda: step(out=CASE.h0[1:].copy()), ValueError, "out: expected shape (3, 9), got (2, 9)"),
    (lambda: forward(out=read_only(out())), ValueError, "out: expected a writable array, got a read-only one"),
    (
        lambda: forward(out=out(order="F")),
        ValueError,
        "out: expected an aligned array with a contiguous last axis, got strides (4, 28, 84)",
    ),
    (
        lambda: forward(out=misaligned(out())),
        ValueError,
        "out: expected an aligned array with a contiguous last axis, got strides (108, 36, 4)",
    ),
    (
        lambda: forward(out=out(), return_sequences=False),
        ValueError,
        "return_sequences: expected True with a tape or `out`, which need all states, got False",
    ),
    (
        lambda: forward(tape=True, return_sequences=False),
        ValueError,
        "return_sequences: expected True with a tape or `out`, which need all states, got False",
    ),
]
WHOLE = [
    (lambda: forward(lengths=[3.0, 1.0, 2.0]), TypeError, "lengths: expected integers, got float64"),
    (lambda: forward(lengths=[3, 1]), ValueError, "lengths: expected shape (3,), got (2,)"),
    (lambda: forward(lengths=[3, 8, 9]), ValueError, "lengths: expected values from 0 to 7, got 8 for row 1"),
    (lambda: forward(lengths=[3, 7, -1]), ValueError, "lengths: expected values from 0 to 7, got -1 for row 2"),
    (lambda: ragged([0.0, 7.0]), TypeError, "offsets: expected integers, got float64"),
    (lambda: ragged(7), ValueError, "offsets: expected shape (B + 1,), got ()"),
    (lambda: ragged([[0, 7]]), ValueError, "offsets: expected shape (B + 1,), got (1, 2)"),
    (lambda: ragged(np.array([], int)), ValueError, "offsets: expected shape (B + 1,), got (0,)"),
    (lambda: ragged([0, 2, 8]), ValueError, "offsets: expected values from 0 to 7, got 0 to 8"),
    (lambda: ragged([-1, 2, 7]), ValueError, "offsets: expected values from 0 to 7, got -1 to 7"),
    (
        lambda: ragged([0, 2, 5, 4, 3]),
        ValueError,
        "offsets: expected non-decreasing values, got 5, 4 for row 2",
    ),
]


@pytest.mark.parametrize(
    ("call", "kind", "text"),
    [pytest.param(*row, id=row[2]) for row in NUMBERS + SHAPES + COLUMNS + ARRAYS + OUTS + WHOLE],
)
def test_it_says(call, kind, text):
    with pytest.raises(kind) as error:
        call()
    assert str(error.value) == text
    assert type(error.value) is kind
