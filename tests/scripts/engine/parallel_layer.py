"""A layer large enough for several threads, its input, and the bytes of all its results."""

from __future__ import annotations

import numpy as np

from indygru_cpu import IndyGRU

layer = IndyGRU(9, 70, seed=5)
x = np.random.default_rng(5).standard_normal((40, 33, 9), np.float32)


def all_results(num_threads=2):
    y, h_n, tape = layer.forward(x, num_threads=num_threads)
    grads = layer.backward(tape, dy=y)
    return b"".join(a.tobytes() for a in (y, h_n, grads.x, grads.h0, *grads.parameters.values()))
