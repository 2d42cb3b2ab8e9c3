"""Prints whether a removal that a thread has recorded before a fork takes effect in the child, and in the parent."""

from __future__ import annotations

import os
import threading
import warnings

import numpy as np

from indygru_cpu import IndyGRU, StreamPool

x = np.ones(3, np.float32)
pool, is_recorded, is_forked = StreamPool(IndyGRU(3, 5, seed=0), 2), threading.Event(), threading.Event()
pool.push({"a": x, "b": x})
warnings.simplefilter("ignore")  # Python warns of forks of processes with threads


class Frame:
    """A frame whose reading removes a client and lasts until the fork."""

    def __array__(self, dtype=None, copy=None):
        pool.remove("a")
        is_recorded.set()
        is_forked.wait()
        return x


thread = threading.Thread(target=pool.push, args=({"c": Frame()},))
thread.start()
is_recorded.wait()
child = os.fork()
if not child:
    pool.push({"b": x})
    os._exit(0 if pool.clients == ("b",) else 3)
is_right = os.waitpid(child, 0)[1] == 0
is_forked.set()
thread.join()
print(is_right and pool.clients == ("b", "c"))
