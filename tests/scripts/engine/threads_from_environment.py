"""Prints the numbers of threads of calls that name none, and of one that names two, and what was recorded of them."""

from __future__ import annotations

import numpy as np

import indygru_cpu
from indygru_cpu import IndyGRU

layer, x = IndyGRU(64, 128, seed=0), np.ones((50, 8, 64), np.float32)
counts = set()
for _ in range(20):
    layer(x)
    counts.add(indygru_cpu.last_num_threads())
layer(x, num_threads=2)
print(counts, indygru_cpu.last_num_threads(), indygru_cpu.thread_statistics())
