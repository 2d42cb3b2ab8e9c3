"""A stream in use by another thread at a fork is free in the child, with the state after some whole step.

Arguments: "push" or "push_many", and the stream's number of threads.
"""

from __future__ import annotations

import sys
import threading
import time
import warnings

import numpy as np
from forks import in_child

from indygru_cpu import IndyGRU

method, num_threads = sys.argv[1], int(sys.argv[2])
layer = IndyGRU(200, 500, seed=3, num_layers=2)
chunk = np.random.default_rng(3).standard_normal((400, 48, 200), np.float32)
stream, other, stop = layer.stream(48, num_threads=num_threads), layer.stream(48, num_threads=1), threading.Event()


def advance():
    while not stop.is_set():
        stream.reset()
        if method == "push_many":
            stream.push_many(chunk)
        else:
            for x_t in chunk:
                stream.push(x_t)


def stream_continues():
    warnings.simplefilter("ignore")
    other.state = stream.state
    return all((stream.push(x_t) == other.push(x_t)).all() for x_t in chunk[:3])


thread = threading.Thread(target=advance)
thread.start()
time.sleep(0.05)
children = [in_child(stream_continues) for _ in range(8)]
stop.set()
thread.join()
print(children == [True] * 8)
