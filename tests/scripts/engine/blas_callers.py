"""Two hundred Python threads in backward, whose products go through BLAS: same bits, and threads within the bound."""

from __future__ import annotations

import sys
import threading

from concurrent_layers import wide_layer, x

from indygru_cpu._engine import _core
from indygru_cpu._engine import threads as thread_counts

y, _, tape = wide_layer.forward(x, num_threads=1)


def gradients():
    return b"".join(array.tobytes() for array in wide_layer.backward(tape, dy=y).parameters.values())


expected, matches, at_work, barrier = gradients(), [], [0], threading.Barrier(201)


def call():
    barrier.wait()
    for _ in range(3):
        matches.append(gradients() == expected)
        at_work.append(_core.active_threads())


callers = [threading.Thread(target=call) for _ in range(200)]
sys.setswitchinterval(1e-5)
for caller in callers:
    caller.start()
barrier.wait()
for caller in callers:
    caller.join()
print(len(matches), all(matches), max(at_work) <= thread_counts.MAX_THREADS)
