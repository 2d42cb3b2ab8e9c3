"""Prints how many threads the import starts, and how many serial calls and calls of one step start."""

from __future__ import annotations

import importlib

import numpy as np
from process_state import thread_count

before = thread_count()
functional = importlib.import_module("indygru_cpu.functional")
print(thread_count() - before)
parallel_layer = importlib.import_module("parallel_layer")
parallel_layer.all_results(num_threads=1)
parallel_layer.layer(parallel_layer.x[:1], num_threads=8)
large = np.ones((200, 300), np.float32)
functional.step(large, large, np.ones((300, 900), np.float32), np.ones(900, np.float32), None)
print(thread_count() - before)
