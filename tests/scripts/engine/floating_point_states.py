"""Floating-point states of OpenMP's four threads stay the same: after calls, errors and Ctrl-C, and whatever state the
caller has. Prints the exceptions of the calls. Argument: the library of thread_states.c.
"""

from __future__ import annotations

import ctypes
import os
import platform
import signal
import sys

import floating_point as fp
import helpers
import numpy as np
from process_state import thread_count

signal.signal(signal.SIGINT, signal.default_int_handler)  # shells ignore it in background jobs
library, n_threads = ctypes.CDLL(sys.argv[1]), 4


def states():
    buffer = (ctypes.c_ubyte * (n_threads * fp.SIZE))()
    library.thread_states(n_threads, buffer)
    return [fp.words(bytes(buffer)[i * fp.SIZE :]) for i in range(n_threads)]


def stop(_):
    raise InterruptedError


def interrupt(_):
    os.kill(os.getpid(), signal.SIGINT)


before, threads_before = states(), thread_count()
cases = [helpers.random_case(shape, np.float32) for shape in ((300, 17, 9, 65), helpers.THROUGH_BLAS[2])]
calls = [
    lambda case, progress=progress: case.forward(num_threads=n_threads, progress=progress)
    for progress in (None, stop, interrupt)
]
calls.append(lambda case: case.run(num_threads=n_threads, recompute=True))
raised = []
for call in calls:
    for case in cases:
        try:
            call(case)
        except (InterruptedError, KeyboardInterrupt) as error:
            raised.append(type(error).__name__)
        assert states() == before
assert thread_count() == threads_before >= n_threads
fp.libm.fesetround(fp._MODES[platform.machine()][0])
before = states()
cases[0].run(num_threads=n_threads)
assert states() == before
print(*raised)
