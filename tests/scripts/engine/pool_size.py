"""The pool of released blocks keeps at most 192 MB, whatever the sizes of the blocks."""

from __future__ import annotations

import numpy as np
from process_state import MEGABYTE, resident_bytes

from indygru_cpu._engine import _core


def allocate_and_release(sizes):
    buffers = [_core.PooledBuffer(size * MEGABYTE) for size in sizes]
    for buffer in buffers:
        np.frombuffer(buffer, np.uint8)[...] = 1


before = resident_bytes()
for sizes in ((80, 80, 80, 80), (180,), (193,), (5, 60, 120, 160), (2,) * 120, (33,)):
    allocate_and_release(sizes)
    grown = (resident_bytes() - before) // MEGABYTE
    assert grown < 196, (sizes, grown)
