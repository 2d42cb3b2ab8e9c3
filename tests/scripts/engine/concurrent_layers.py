"""Two layers and all their results, for scripts about several Python threads. The wide layer goes through BLAS."""

from __future__ import annotations

import numpy as np

from indygru_cpu import IndyGRU

wide_layer = IndyGRU(800, 40, seed=5)
narrow_layer = IndyGRU(9, 70, 2, seed=5, reproducible=True)
x = np.random.default_rng(5).standard_normal((60, 9, 800), np.float32)
x_narrow = np.ascontiguousarray(x[:, :, :9])


def all_results(num_threads=None):
    """Bytes of a forward and a backward pass of one layer and of a stream of the other."""
    y, h_n, tape = wide_layer.forward(x, num_threads=num_threads)
    grads = wide_layer.backward(tape, dy=y)
    steps = narrow_layer.stream(9).push_many(x_narrow)
    return b"".join(a.tobytes() for a in (y, h_n, grads.x, grads.h0, *grads.parameters.values(), steps))
