"""Idle blocks of the pool are unmapped before an allocation fails. Argument: "buffer" or "array".

The limit leaves 70 MB more than the array needs: malloc may reserve an arena of 64 MB when its first attempt fails.
"""

from __future__ import annotations

import sys

import numpy as np
from process_state import MEGABYTE, limit_address_space

from indygru_cpu._engine import _core, memory

allocations = {
    "buffer": lambda: _core.PooledBuffer(170 * MEGABYTE),
    "array": lambda: memory.new((210 * MEGABYTE,), np.dtype(np.uint8)),  # too large for the pool
}
idle = [_core.PooledBuffer(60 * MEGABYTE) for _ in range(3)]
del idle
limit_address_space(100 * MEGABYTE)
allocated = allocations[sys.argv[1]]()
assert np.frombuffer(allocated, np.uint8).nbytes > 160 * MEGABYTE
del allocated
try:
    _core.PooledBuffer(400 * MEGABYTE)
except MemoryError:
    print("done")
