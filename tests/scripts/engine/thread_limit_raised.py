"""Calls use the threads that the system allows, and more when it allows more. Argument: allowed threads.

Prints the number of threads of the process under each limit.
"""

from __future__ import annotations

import sys

from parallel_layer import all_results
from process_limit import expected, limit_threads, set_limit
from process_state import thread_count

limit_threads(int(sys.argv[1]))
assert all(all_results(8) == expected for _ in range(3))
under_limit = thread_count()
set_limit(20)
assert all_results(8) == expected
print(under_limit, thread_count())
