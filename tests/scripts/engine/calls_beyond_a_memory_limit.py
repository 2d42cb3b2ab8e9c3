"""Calls that need more than 100 MB of spare address space. Prints for each, three times: whether it raised MemoryError,
whether a smaller call is right, and whether the stream's state is unchanged.
"""

from __future__ import annotations

import numpy as np
from process_state import MEGABYTE, limit_address_space

from indygru_cpu import IndyGRU

layer = IndyGRU(9, 33, num_layers=2, seed=1, num_threads=1)
x = np.random.default_rng(0).standard_normal((65, 17, 9), np.float32)
stream, long_x = layer.stream(17), np.broadcast_to(x[:1], (2**17, 17, 9))


def results_of_x():
    y, _, tape = layer.forward(x)
    return b"".join(array.tobytes() for array in (y, layer(x)[0], layer.last(x), layer.backward(tape, y).x))


def raises_memory_error(call):
    try:
        call()
    except MemoryError:
        return True
    return False


expected = results_of_x()
limit_address_space(100 * MEGABYTE)
calls = [
    lambda: layer(long_x),
    lambda: layer.forward(long_x),
    lambda: stream.push_many(long_x),
    lambda: layer.ragged(long_x[:, 0].repeat(17, 0), [0, 17 * len(long_x)]),
    lambda: layer(np.broadcast_to(x[:1], (2**45, 17, 9))),
    lambda: IndyGRU(2**15, 2**12),
]
for call in calls:
    for _ in range(3):
        print(raises_memory_error(call), results_of_x() == expected, (stream.state == 0).all())
