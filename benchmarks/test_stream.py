"""Single steps of streams and pools, by formats of the weights, beside the NumPy product of one step. One thread."""

from __future__ import annotations

import numpy as np
import pytest
from ratios import baselines
from ratios.library import make_layer
from settings import Setting, parametrize

from indygru_cpu import StreamPool

SIZES = (64, 256, 1024)
FORMATS = {"f32": None, "bf16": "bfloat16", "int8": "int8"}
#: Rows of a step of many clients.
N_ROWS = 64

one_row = parametrize((f"{n}", Setting((1, 1, n, n), f"one row, {n}")) for n in SIZES)
many_rows = parametrize((f"{n}", Setting((1, N_ROWS, n, n), f"{N_ROWS} rows, {n}")) for n in SIZES[:2])
formats = pytest.mark.parametrize("weights", [pytest.param(value, id=name) for name, value in FORMATS.items()])


@formats
@one_row
def test_push(benchmark, case, weights):
    benchmark(make_layer(case).stream(batch_size=1, weights=weights).push, case.x[0])


@one_row
def test_dot(benchmark, case):
    benchmark(baselines.dot(case))


@formats
@many_rows
def test_push_rows(benchmark, case, weights):
    benchmark(make_layer(case).stream(batch_size=len(case.x[0]), weights=weights).push, case.x[0])


@formats
@many_rows
def test_pool_push(benchmark, case, weights):
    """A pool: a frame of each of as many clients."""
    frames = dict(enumerate(case.x[0]))
    benchmark(StreamPool(make_layer(case), capacity=len(frames), weights=weights).push, frames)


@many_rows
def test_push_some_rows(benchmark, case):
    """Every fourth row of a stream of four times as many."""
    n_rows = 4 * len(case.x[0])
    benchmark(make_layer(case).stream(batch_size=n_rows).push, case.x[0], np.arange(0, n_rows, 4))


@many_rows
def test_matmul(benchmark, case):
    benchmark(baselines.matmul(case))


@parametrize([("small", Setting((100, 1, 64, 64), "100 steps of one row, 64"))])
def test_push_many(benchmark, case):
    benchmark(make_layer(case).stream(batch_size=1).push_many, case.x)
