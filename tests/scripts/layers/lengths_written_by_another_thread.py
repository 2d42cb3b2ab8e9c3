"""Calls while another thread overwrites lengths and offsets with valid and impossible values: a result or an error."""

from __future__ import annotations

import itertools
import os
import threading
import time

import numpy as np

from indygru_cpu import IndyGRU, functional

layer, values = IndyGRU(1, 1, seed=0), np.ones((1000, 1), np.float32)
offsets, lengths = np.arange(1001), np.ones(1000, np.int64)
x = np.ones((1, 1000, 1), np.float32)
kernel = np.ones((1, 3), np.float32)


def overwrite():
    for offset, length in itertools.cycle([(10**12, 2**40), (500, 1), (-(10**12), -(2**40)), (500, 1)]):
        offsets[500], lengths[500] = offset, length


def succeeds(call):
    try:
        call()
    except ValueError:
        return False
    return True


threading.Thread(target=overwrite, daemon=True).start()
deadline, successes = time.monotonic() + 3, 0
calls = [
    lambda: layer.ragged(values, offsets),
    lambda: layer.backward(layer.ragged(values, offsets, tape=True)[2]),
    lambda: layer(x, lengths=lengths),
    lambda: functional.forward(x, None, kernel, kernel[0], None, lengths=lengths, reverse=True),
    lambda: functional.forward(values, None, kernel, kernel[0], None, offsets=offsets),
]
for call in itertools.cycle(calls):
    if time.monotonic() > deadline and successes > 10:
        break
    successes += succeeds(call)
print("done", flush=True)
os._exit(0)
