"""Prints by how many bytes the peak of the resident memory grows while 20 streams of 1,000 layers are made and deleted.

Each is copied and refreshed, and refuses a second initialisation and a push.
"""

from __future__ import annotations

import contextlib
import copy

import numpy as np
from process_state import peak_resident_bytes

from indygru_cpu import IndyGRU

layer = IndyGRU(1, 1, num_layers=1000)
x = np.full((1, 1), 0.25, np.float32)


def make_use_and_delete():
    stream = copy.copy(layer.stream())
    stream.push(x)
    stream.refresh()
    with contextlib.suppress(RuntimeError):
        stream.__init__(layer)
    with contextlib.suppress(ValueError):
        stream.push(x[:0])
    stream.push_many(x)


for _ in range(3):
    make_use_and_delete()
before = peak_resident_bytes()
for _ in range(20):
    make_use_and_delete()
print(peak_resident_bytes() - before)
