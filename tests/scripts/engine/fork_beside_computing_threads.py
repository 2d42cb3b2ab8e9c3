"""Forks while four Python threads compute: no child inherits a lock that is held, such as OpenBLAS's.

A fork waits until the computing threads have left compiled code.
"""

from __future__ import annotations

import threading

from forked_results import report
from forks import in_child
from parallel_layer import all_results, layer, x

from indygru_cpu._engine import _core

y, _, tape = layer.forward(x, num_threads=1)
expected, stop = all_results(), threading.Event()


def compute():
    while not stop.is_set():
        layer.backward(tape, dy=y)


threads = [threading.Thread(target=compute) for _ in range(4)]
for thread in threads:
    thread.start()
matches = [in_child(lambda: _core.active_threads() == 0 and report()[0] == expected) for _ in range(60)]
stop.set()
for thread in threads:
    thread.join()
print(all(matches), _core.active_threads())
