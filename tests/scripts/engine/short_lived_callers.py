"""Python threads that call with 8 threads and end. Prints the numbers of threads of the process during the calls."""

from __future__ import annotations

import threading
import time

from concurrent_layers import all_results, wide_layer, x
from process_state import thread_count

counts, expected = [], all_results(8)


def call():
    wide_layer.forward(x, num_threads=8)
    counts.append(thread_count())


wide_layer.forward(x, num_threads=8)  # the last call decides how many threads OpenMP keeps
for _ in range(30):
    caller = threading.Thread(target=call)
    caller.start()
    caller.join()
    while thread_count() > 8:  # this thread and its seven helpers; the caller's helpers need some time to end
        time.sleep(0.001)
assert all_results(8) == expected
print(set(counts))
