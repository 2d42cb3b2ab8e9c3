"""Each of 200 children computes the same bits on one thread and warns once; the parent stays parallel."""

from __future__ import annotations

from forked_results import report, serial, with_warnings
from forks import in_child
from parallel_layer import all_results
from process_state import thread_count

from indygru_cpu._engine import threads as thread_counts

expected = all_results()
for _ in range(200):
    assert in_child(lambda: report() == serial(expected) and thread_count() == 1)
n_threads = thread_count()
print(with_warnings() == (expected, []), thread_counts.count(2, 1e12), n_threads)
