"""A layer, and the processor masks of all threads of this process, for scripts about the placement of helpers.

NumPy's own threads have masks of their own: scripts run with one thread of BLAS.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time

import numpy as np

from indygru_cpu import IndyGRU
from indygru_cpu._engine import _core

layer = IndyGRU(200, 500, seed=0)
x = np.random.default_rng(0).standard_normal((60, 48, 200), np.float32)


def all_processors():
    return frozenset(os.sched_getaffinity(0))


def masks():
    """The mask of each thread by its id."""
    result = {}
    for name in os.listdir("/proc/self/task"):
        with contextlib.suppress(ProcessLookupError):
            result[int(name)] = frozenset(os.sched_getaffinity(int(name)))
    return result


def helper_ids():
    return [thread for thread in masks() if thread != os.getpid()]


def masks_during(call, is_enough=lambda seen: True):
    """Sets of masks of each thread during calls, which are repeated until `is_enough`; helpers sleep between them."""
    seen, done, deadline = {}, threading.Event(), time.monotonic() + 40

    def watch():
        while not done.is_set():
            for thread, mask in masks().items():
                if _core.active_threads() > 1:
                    seen.setdefault(thread, set()).add(mask)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        while True:
            call()
            if is_enough(seen) or time.monotonic() > deadline:
                return seen
            time.sleep(0.003)
    finally:
        done.set()
        watcher.join()


def a_helper_was_restricted(seen):
    """Whether the mask of some helper left out a processor."""
    full = all_processors()
    return any(mask < full for thread, seen_masks in seen.items() if thread != os.getpid() for mask in seen_masks)
