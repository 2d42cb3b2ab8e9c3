"""Prints whether a removal that a thread has recorded before a fork takes effect in the child, and in the parent."""

from __future__ import annotations

import threading
import warnings

import numpy as np
from forks import in_child

from indygru_cpu import IndyGRU, StreamPool

x = np.random.default_rng(0).standard_normal(3, dtype=np.float32)
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


def removal_takes_effect():
    pool.push({"b": x})
    return pool.clients == ("b",)


thread = threading.Thread(target=pool.push, args=({"c": Frame()},))
thread.start()
is_recorded.wait()
is_right = in_child(removal_takes_effect)
is_forked.set()
thread.join()
print(is_right and pool.clients == ("b", "c"))
