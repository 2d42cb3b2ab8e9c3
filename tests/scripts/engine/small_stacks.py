"""Results on threads with small stacks equal those of the main thread.

Arguments: "caller" and the kilobytes of a Python thread's stack, or "helpers", whose stacks OMP_STACKSIZE sets.
"""

from __future__ import annotations

import sys
import threading

import numpy as np

from indygru_cpu import IndyGRU, functional

N_INPUTS, N_UNITS = 300, 130  # more than a run of inputs, and columns at the edge of every panel


def results(rng, dtype, num_threads):
    shapes = [(13, N_INPUTS), (13, N_UNITS), (N_INPUTS, 3 * N_UNITS), (3 * N_UNITS,), (3 * N_UNITS,)]
    x, h, *weights = (rng.uniform(-0.1, 0.1, shape).astype(dtype) for shape in shapes)
    layer = IndyGRU(N_INPUTS, N_UNITS, seed=0, dtype=dtype)
    sequence = rng.uniform(-1, 1, (40, 13, N_INPUTS)).astype(dtype)
    y, h_n, tape = layer.forward(sequence, num_threads=num_threads, recompute=True)
    gradients = layer.backward(tape, y)
    return functional.step(x, h, *weights), layer.stream(13).push(x), y, h_n, gradients.x, gradients.h0


def all_results(num_threads):
    rng = np.random.default_rng(0)
    return [array.tobytes() for dtype in (np.float32, np.float64) for array in results(rng, dtype, num_threads)]


def results_of_a_thread(kilobytes):
    collected = []
    threading.stack_size(kilobytes * 1024)
    thread = threading.Thread(target=lambda: collected.extend(all_results(1)))
    thread.start()
    thread.join()
    return collected


expected = all_results(1)
print((results_of_a_thread(int(sys.argv[2])) if sys.argv[1] == "caller" else all_results(3)) == expected)
