"""Masks are full after calls that end in an error, and after calls of several Python threads."""

from __future__ import annotations

import contextlib
import threading
import time

import numpy as np
from affinity_masks import all_processors, layer, masks, x

from indygru_cpu._engine import _core

full = all_processors()


def fail(done, total):
    raise KeyError


def call():
    for _ in range(20):
        time.sleep(0.001)
        layer(x, num_threads=2)


long_x = np.concatenate([x] * 8)
seconds = _core.testing.set_slice_seconds(0)
for _ in range(5):
    time.sleep(0.002)
    with contextlib.suppress(KeyError):
        layer(long_x, num_threads=2, progress=fail)
_core.testing.set_slice_seconds(seconds)
assert set(masks().values()) == {full}
callers = [threading.Thread(target=call) for _ in range(3)]
for caller in callers:
    caller.start()
for caller in callers:
    caller.join()
print(set(masks().values()) == {full})
