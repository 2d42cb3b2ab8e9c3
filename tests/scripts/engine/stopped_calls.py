"""Calls that `progress` stops do not grow the resident memory: by less than a quarter of 150 leaks of 200 KB."""

from __future__ import annotations

import numpy as np
from process_state import resident_bytes

from indygru_cpu import IndyGRU

layer = IndyGRU(9, 129, 2, dropout=0.5, seed=7, num_threads=1)
x = np.random.default_rng(0).standard_normal((33, 17, 9), dtype=np.float32)


def stop(*_):
    raise InterruptedError


def run_stopped_calls(times):
    for _ in range(times):
        for call in (layer, layer.last, layer.forward):
            try:
                call(x, progress=stop)
            except InterruptedError:
                continue
            raise AssertionError("not stopped")


run_stopped_calls(20)
before = resident_bytes()
run_stopped_calls(150)
grown = resident_bytes() - before
assert grown < 150 * 200_000 / 4, grown
