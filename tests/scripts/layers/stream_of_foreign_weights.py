"""A stream of a layer that has no weights, or weights of other sizes, is refused."""

from __future__ import annotations

import contextlib

import numpy as np

from indygru_cpu import IndyGRU
from indygru_cpu._engine import _core
from indygru_cpu._engine.arguments import choose_threads

matrix, vector = np.zeros((0, 0), np.float32), np.zeros(0, np.float32)
for weights in ([], [[]], [[(matrix, vector, vector)]], [[(np.zeros((4, 15), np.float32), vector, vector)]]):
    layer = IndyGRU(4, 5, seed=0)
    with contextlib.suppress(ValueError, IndexError, TypeError):
        layer._bound = _core.BoundLayer(weights, 1, 0, False, choose_threads)
        layer.stream()
        print("no error")
print("done")
