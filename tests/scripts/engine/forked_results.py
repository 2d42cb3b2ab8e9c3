"""A layer and its results, in this process and in forks of it, for scripts about processes.

A module, so that processes started by any method can import it.
"""

from __future__ import annotations

import os
import signal
import warnings

import numpy as np

from indygru_cpu import IndyGRU
from indygru_cpu._engine import threads as thread_counts

# Python 3.12 warns of every fork while there are threads.
warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)
layer = IndyGRU(9, 70, seed=5)
x = np.random.default_rng(5).standard_normal((40, 33, 9), np.float32)


def all_results(num_threads=2):
    y, h_n, tape = layer.forward(x, num_threads=num_threads)
    grads = layer.backward(tape, dy=y)
    return b"".join(a.tobytes() for a in (y, h_n, grads.x, grads.h0, *grads.parameters.values()))


def with_warnings(call=all_results):
    """The result of a call, and the texts of its warnings."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = call()
    assert all(warning.category is RuntimeWarning for warning in caught)
    return result, [str(warning.message) for warning in caught]


def report(_=None):
    """For a child process: its results, its number of warnings, and whether it runs in parallel."""
    signal.alarm(50)
    results, first_warnings = with_warnings()
    again, more_warnings = with_warnings()
    assert results == again
    return results, len(first_warnings + more_warnings), thread_counts.count(2, 1e12) > 1


def serial(results):
    """The report of a child that has warned once and runs on one thread."""
    return results, 1, False


def parallel(results):
    """The report of a child that has not warned and runs in parallel."""
    return results, 0, True


def in_child(check):
    """Fork; whether `check()` is true in the child."""
    child = os.fork()
    if not child:
        signal.alarm(50)
        status = 1
        try:
            status = 0 if check() else 2
        finally:
            os._exit(status)
    return os.waitpid(child, 0)[1] == 0
