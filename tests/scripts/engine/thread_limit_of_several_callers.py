"""Four Python threads start helpers at the same time under a limit of nine threads: each gets its results.

Helpers end with their Python thread, so each repetition starts new ones.
"""

from __future__ import annotations

import threading
import time

from parallel_layer import all_results
from process_limit import expected, limit_threads

limit_threads(9)


def started(call):
    while True:  # helpers of the last repetition may still be ending
        try:
            thread = threading.Thread(target=call)
            thread.start()
            return thread
        except RuntimeError:
            time.sleep(0.001)


def run_callers():
    results, barrier = [], threading.Barrier(4)

    def call():
        barrier.wait()
        results.append(all_results(4))

    callers = [started(call) for _ in range(4)]
    for caller in callers:
        caller.join()
    return results


for _ in range(60):
    assert run_callers() == [expected] * 4
print("done")
