"""Prints whether a child that is forked during a chunk of another thread has the states before or after that chunk.

Arguments: the format of the weights, and the number of threads.
"""

from __future__ import annotations

import sys
import threading
import time
import warnings

import numpy as np
from forks import in_child

from indygru_cpu import IndyGRU

weights, n_threads = sys.argv[1], int(sys.argv[2])
dtype = "float64" if weights == "float64" else "float32"
layer = IndyGRU(256, 256, num_layers=2, seed=0, dtype=dtype)
x = np.random.default_rng(0).standard_normal((6000, 256)).astype(dtype)
stream = layer.stream(weights=weights, num_threads=n_threads)
stream.push_many(x[:5])
before = stream.state
warnings.simplefilter("ignore")  # the fork's warning has tests of its own


def stream_from(state):
    new = layer.stream(weights=weights, num_threads=1)
    new.state = state
    return new


def is_whole(stream):
    """Whether the states are those before or after the chunk, and the stream continues from them."""
    state, new = stream.state, stream_from(stream.state)
    continues = (stream.push_many(x[:3]) == new.push_many(x[:3])).all() and (stream.state == new.state).all()
    return continues and any((state == known).all() for known in (before, after))


twin = stream_from(before)
twin.push_many(x)
after = twin.state
thread = threading.Thread(target=stream.push_many, args=(x,))
thread.start()
results = []
for _ in range(6):
    time.sleep(0.005)
    results.append(in_child(lambda: is_whole(stream)))
thread.join()
print(all(results) and (stream.state == after).all())
