"""A layer, its results, and a limit on the number of threads, for scripts about RLIMIT_NPROC.

The limit counts all processes of a user, so this process becomes a user of its own if it can.
"""

from __future__ import annotations

import os
import resource

import numpy as np

from indygru_cpu import IndyGRU

layer = IndyGRU(9, 70, seed=5)
x = np.random.default_rng(5).standard_normal((40, 33, 9), np.float32)


def all_results(num_threads):
    y, h_n, tape = layer.forward(x, num_threads=num_threads)
    grads = layer.backward(tape, dy=y)
    return b"".join(a.tobytes() for a in (y, h_n, grads.x, grads.h0, *grads.parameters.values()))


expected = all_results(1)


def set_limit(n_threads):
    resource.setrlimit(resource.RLIMIT_NPROC, (n_threads, resource.getrlimit(resource.RLIMIT_NPROC)[1]))


def limit_threads(n_threads):
    """Allow this process so many threads; the superuser becomes a user without other processes."""
    set_limit(n_threads)
    if not os.getuid():
        os.setuid(50_000 + os.getpid() % 10_000)
