"""A team that has started some threads reaches the limit; so do another Python thread and a stream."""

from __future__ import annotations

import threading

import numpy as np
from parallel_layer import all_results
from process_limit import expected, limit_threads, set_limit

from indygru_cpu import IndyGRU

assert all_results(2) == expected
x_t = np.full((33, 400), 0.25, np.float32)
stream = IndyGRU(400, 300, seed=5).stream(33, num_threads=5)
expected_y = IndyGRU(400, 300, seed=5).stream(33, num_threads=1).push(x_t).tobytes()
limit_threads(3)
assert all_results(8) == expected
results = []
caller = threading.Thread(target=lambda: results.append(all_results(8)))
set_limit(4)
caller.start()
caller.join()
assert results == [expected]
print(stream.push(x_t).tobytes() == expected_y)
