"""What tests of a single layer share: a small layer, its inputs, and the results of `functional` with its weights."""

from __future__ import annotations

import numpy as np

from indygru_cpu import IndyGRU, functional

T, B, D, N = 9, 4, 3, 7
NAMES = ["kernel_l0", "recurrent_kernel_l0", "bias_l0"]


def small_layer(**options):
    return IndyGRU(D, N, **({"seed": 7} | options))


def random_inputs(dtype=np.float32, shape=(T, B, D), seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def upstream_gradients(y, h_n):
    rng = np.random.default_rng(8)
    return [rng.standard_normal(array.shape).astype(array.dtype) for array in (y, h_n)]


def results_by_functional(layer, x, h0=None, lengths=None):
    """y, h_n and gradients of `functional` for time-major, batched arguments."""
    weights = (*layer.parameters.values(), None)[:3]
    y, h_n, tape = functional.forward(x, h0, *weights, activation=layer.activation, lengths=lengths, tape=True)
    return y, h_n, functional.backward(tape, *upstream_gradients(y, h_n))
