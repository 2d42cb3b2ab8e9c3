"""Prints how many threads the import starts, and how many serial calls and calls of one step start."""

from __future__ import annotations

import numpy as np
from process_state import thread_count

before = thread_count()

from indygru_cpu import IndyGRU, functional  # noqa: E402

print(thread_count() - before)
layer = IndyGRU(9, 70, seed=5)
x = np.random.default_rng(5).standard_normal((40, 33, 9), np.float32)
y, _, tape = layer.forward(x, num_threads=1)
layer.backward(tape, dy=y)
layer(x[:1], num_threads=8)
large = np.ones((200, 300), np.float32)
functional.step(large, large, np.ones((300, 900), np.float32), np.ones(900, np.float32), None)
print(thread_count() - before)
