"""A training step, forward and backward, beside the three matrix products that it contains."""

from __future__ import annotations

from ratios import baselines
from ratios.library import make_layer, train
from settings import shapes
from variants import make_mingru, make_without_reset_gate


@shapes("small speech speech-f64 lm wide")
def test_training(benchmark, case):
    benchmark(train, make_layer(case), case.x, case.dy, case.h0[None])


@shapes("speech lm")
def test_training_without_dx(benchmark, case):
    """As in the first layer of a network."""
    benchmark(train, make_layer(case), case.x, case.dy, case.h0[None], x=False)


@shapes("speech lm")
def test_training_frozen(benchmark, case):
    """Without the gradients of the weights."""
    benchmark(train, make_layer(case), case.x, case.dy, case.h0[None], parameters=False)


@shapes("lm")
def test_training_recompute(benchmark, case):
    """With the tape recomputed in backward instead of stored."""
    benchmark(train, make_layer(case), case.x, case.dy, case.h0[None], recompute=True)


@shapes("speech lm")
def test_training_without_reset_gate(benchmark, case):
    benchmark(train, make_without_reset_gate(case), case.x, case.dy, case.h0[None])


@shapes("speech lm")
def test_training_mingru(benchmark, case):
    benchmark(train, make_mingru(case), case.x, case.dy, case.h0[None])


@shapes("small speech speech-f64 lm wide")
def test_products(benchmark, case):
    benchmark(baselines.products(case))
