"""The forward pass of the layer and of its variants, beside `numpy.matmul` of the input projection alone."""

from __future__ import annotations

import numpy as np
from ratios import baselines
from ratios.library import make_layer
from settings import shapes
from variants import make_mingru, make_without_reset_gate


@shapes("small speech speech-f64 lm wide")
def test_forward(benchmark, case):
    benchmark(make_layer(case), case.x, case.h0[None], out=np.empty_like(case.dy))


@shapes("speech lm")
def test_forward_without_reset_gate(benchmark, case):
    benchmark(make_without_reset_gate(case), case.x, case.h0[None], out=np.empty_like(case.dy))


@shapes("speech lm")
def test_forward_mingru(benchmark, case):
    benchmark(make_mingru(case), case.x, case.h0[None], out=np.empty_like(case.dy))


@shapes("speech lm")
def test_forward_last(benchmark, case):
    """The last state alone, which needs no memory for the others."""
    benchmark(make_layer(case).last, case.x, case.h0[None])


@shapes("small speech speech-f64 lm wide")
def test_matmul(benchmark, case):
    benchmark(baselines.matmul(case))
