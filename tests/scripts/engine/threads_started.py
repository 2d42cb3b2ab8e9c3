"""Prints how many threads a forward and a backward pass start. Argument: num_threads."""

from __future__ import annotations

import sys

import numpy as np
from process_state import thread_count

before = thread_count()

from indygru_cpu import IndyGRU  # noqa: E402

layer = IndyGRU(9, 70, seed=5)
x = np.random.default_rng(5).standard_normal((40, 33, 9), np.float32)
y, _, tape = layer.forward(x, num_threads=int(sys.argv[1]))
layer.backward(tape, dy=y)
print(thread_count() - before)
