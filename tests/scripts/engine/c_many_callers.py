"""Seventy threads of C at once: threads in OpenBLAS and threads that OpenMP starts stay within their bounds.

The case is one whose work is in OpenBLAS. Argument: library.
"""

from __future__ import annotations

import threading
import time

import helpers
import numpy as np
from c_caller_threads import ForwardCalls
from process_state import thread_count

from indygru_cpu._engine import _core
from indygru_cpu._engine import threads as thread_counts

case = helpers.random_case((300, 1, 4100, 33), np.float32)
expected, statuses = case.run(1), []
calls, before = ForwardCalls(case, 70, 3), thread_count()
most_at_work = most_started = 0
while most_at_work <= 3 or most_started <= 0:  # until a sample has hit a busy moment
    caller = threading.Thread(target=lambda: statuses.append(calls.run(1)))
    caller.start()
    while caller.is_alive():
        most_at_work = max(most_at_work, _core.active_threads())
        most_started = max(most_started, thread_count() - before - 1 - calls.n)
        time.sleep(0.001)
assert most_at_work <= thread_counts.MAX_THREADS, most_at_work
assert most_started <= 2 * thread_counts.MAX_THREADS, most_started
print(set(statuses), calls.have(expected), _core.active_threads())
