"""Forks while threads of C compute, which never return to Python: each child computes right on one thread.

A fork waits until the computing threads reach the end of a time slice. Argument: library.
"""

from __future__ import annotations

import os
import signal
import threading
import time
import warnings

import c_calls
import helpers
import numpy as np
from c_caller_threads import ForwardCalls
from process_state import thread_count

from indygru_cpu._engine import _core

warnings.simplefilter("ignore")  # Python 3.12 warns of a fork while there are threads
case = helpers.random_case((140, 25, 770, 60), np.float32)
expected, statuses = case.run(1), []
calls = ForwardCalls(case, 3, 2)
threading.Thread(target=lambda: statuses.append(calls.run(10**9)), daemon=True).start()
while not _core.active_threads():
    time.sleep(0.001)
successes = 0
for _ in range(5):
    child = os.fork()
    if not child:
        signal.alarm(50)
        own_calls = ForwardCalls(case, 1, 2)
        c_calls.c_function("forward")(own_calls.data.ctypes.data)
        os._exit(0 if own_calls.have(expected) and thread_count() == 1 and _core.active_threads() == 0 else 3)
    successes += os.waitpid(child, 0)[1] == 0
print(successes, statuses, flush=True)
os._exit(0)  # the daemon thread is still in its call
