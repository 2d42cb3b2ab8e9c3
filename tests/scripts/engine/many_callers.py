"""Many Python threads call shared layers: same bits, and threads within the bound. Argument: number of callers."""

from __future__ import annotations

import sys
import threading
import time

from concurrent_layers import all_results
from process_state import thread_count

from indygru_cpu._engine import _core
from indygru_cpu._engine import threads as thread_counts

n_callers = int(sys.argv[1])
expected, barrier, matches = all_results(1), threading.Barrier(n_callers + 1), []
most_tasks = most_at_work = 0


def call(i):
    barrier.wait()
    matches.extend(all_results([1, 2, 8, None][i % 4]) == expected for _ in range(2))
    barrier.wait()


callers = [threading.Thread(target=call, args=(i,)) for i in range(n_callers)]
before = thread_count()
for caller in callers:
    caller.start()
barrier.wait()
while barrier.n_waiting < n_callers:
    most_tasks = max(most_tasks, thread_count())
    most_at_work = max(most_at_work, _core.active_threads())
    time.sleep(0.002)
while thread_count() - before - n_callers > thread_counts.MAX_THREADS:  # ending threads need some time
    time.sleep(0.002)
barrier.wait()
for caller in callers:
    caller.join()
assert len(matches) == 2 * n_callers
assert all(matches)
assert most_tasks - before - n_callers <= 2 * thread_counts.MAX_THREADS, (most_tasks, most_at_work)
assert all_results() == expected
print(_core.active_threads())
