"""A stream of a layer whose stack has no weights, or weights of other sizes, is refused."""

from __future__ import annotations

import contextlib

import numpy as np

from indygru_cpu import IndyGRU

matrix, vector = np.zeros((0, 0), np.float32), np.zeros(0, np.float32)
for weights in ([], [[]], [[(matrix, vector, vector)]], [[(np.zeros((4, 15), np.float32), vector, vector)]]):
    layer = IndyGRU(4, 5, seed=0)
    layer._stack = layer._stack._replace(weights=weights)
    with contextlib.suppress(ValueError, IndexError, TypeError):
        layer.stream()
        print("no error")
print("done")
