"""Tiny calls, which cost little but the call itself, beside `numpy.add` of 32 floats. One thread."""

from __future__ import annotations

import numpy as np
import pytest
from cases import STACKED_CALL, TINY_CALL
from ratios import baselines, calls
from ratios.library import make_layer, train
from settings import Setting, parametrize
from variants import make_without_reset_gate

from indygru_cpu import functional

tiny = parametrize([("tiny-f32-1", Setting(TINY_CALL, "tiny"))])
floats = parametrize([("32-f32", Setting((1, 1, 32, 32), "tiny"))])
stacked = parametrize([("stack-f32-1", Setting(STACKED_CALL, "stacks"))])


@tiny
def test_call(benchmark, case):
    benchmark(make_layer(case), case.x)


@tiny
def test_call_out(benchmark, case):
    benchmark(make_layer(case), case.x, out=np.empty_like(case.dy), h_out=np.empty_like(case.h0[None]))


@tiny
def test_call_without_reset_gate(benchmark, case):
    benchmark(make_without_reset_gate(case), case.x)


@tiny
def test_call_functional(benchmark, case):
    benchmark(functional.forward, case.x, None, *case.weights)


@tiny
def test_call_functional_step(benchmark, case):
    benchmark(functional.step, case.x[0], case.h0, *case.weights, out=np.empty_like(case.h0))


@tiny
def test_call_training(benchmark, case):
    benchmark(train, make_layer(case), case.x, case.dy)


@tiny
def test_call_torch(benchmark, case):
    """The PyTorch module without gradients."""
    torch = pytest.importorskip("torch")
    from indygru_cpu.torch import IndyGRU as Module

    module, x = Module.from_numpy(make_layer(case)), torch.from_numpy(case.x)
    with torch.inference_mode():
        benchmark(module, x)


@floats
def test_add(benchmark, case):
    benchmark(baselines.add(case))


@stacked
def test_call_two_layers_two_directions(benchmark, case):
    benchmark(calls.stack(case))


@stacked
def test_call_one_layer(benchmark, case):
    benchmark(make_layer(case), case.x)
