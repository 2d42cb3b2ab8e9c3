"""A pool that another thread is using at a fork can be used in the child, with a state after some whole step."""

from __future__ import annotations

import threading
import time
import warnings

import numpy as np
from forks import in_child

from indygru_cpu import IndyGRU, StreamPool

layer = IndyGRU(200, 500, seed=3, num_threads=1)
x = np.random.default_rng(3).standard_normal(200, np.float32)
pool, stop = StreamPool(layer, 16), threading.Event()
frames = dict.fromkeys(range(48), x)
warnings.simplefilter("ignore")  # the fork's warning has tests of its own


def advance():
    while not stop.is_set():
        pool.push(frames)


def pool_continues():
    state = pool.get_state(5)
    stream = layer.stream()
    stream.state = state[:, None]
    return bool((pool.push({5: x})[5] == stream.push(x)).all())


pool.push(frames)
thread = threading.Thread(target=advance)
thread.start()
results = []
for _ in range(8):
    time.sleep(0.01)
    results.append(in_child(pool_continues))
stop.set()
thread.join()
print(all(results))
