"""Calls under a limit of one thread. Prints whether their results are right, and the number of threads."""

from __future__ import annotations

from parallel_layer import all_results
from process_limit import expected, limit_threads
from process_state import thread_count

limit_threads(1)
print(all(all_results(8) == expected for _ in range(3)), thread_count())
