"""Several threads of a forked child use a pool of the parent at the same time. Prints whether the states are right.

The parent forks while one of its threads holds the lock of the pool.
"""

from __future__ import annotations

from threading import Event, Thread

import numpy as np
from forks import in_child
from simultaneous import run_at_once

from indygru_cpu import IndyGRU, StreamPool

N_THREADS, N_STEPS = 8, 20
layer = IndyGRU(3, 5, seed=0, num_threads=1)
x = np.random.default_rng(0).standard_normal((N_STEPS, 3), dtype=np.float32)
is_held, may_end = Event(), Event()


class Frame:
    """A frame that waits when the pool reads it, which is within the call."""

    def __array__(self, dtype=None, copy=None):
        is_held.set()
        may_end.wait(60)
        return x[0]


def push_all(pool, client):
    for x_t in x:
        pool.push({client: x_t})


def has_states_of_streams(pool):
    run_at_once([lambda client=client: push_all(pool, client) for client in range(N_THREADS)])
    stream = layer.stream()
    stream.push_many(x)
    return all((pool.get_state(client) == stream.state[:, 0]).all() for client in range(N_THREADS))


held = StreamPool(layer, 2)
thread = Thread(target=lambda: held.push({"parent": Frame()}))
thread.start()
is_held.wait(60)
print(in_child(lambda: has_states_of_streams(held)))
may_end.set()
thread.join()
