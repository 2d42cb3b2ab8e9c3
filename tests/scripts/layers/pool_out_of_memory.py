"""Prints whether calls of a pool or a stream raise MemoryError and change nothing, when an allocation of them fails.

Either one allocation fails, or five. If all fail, the interpreter itself cannot continue.
"""

from __future__ import annotations

import _testcapi
import gc
import pickle

import numpy as np

from indygru_cpu import IndyGRU, StreamPool

layer, x = IndyGRU(3, 5, 2, seed=0), np.random.default_rng(0).standard_normal(3, dtype=np.float32)
pool = StreamPool(layer, 2)
pool.push({"a": x, "b": x})
start, grown = pickle.dumps(pool), {"a": x, "c": x, "d": x}
pool.push(dict.fromkeys("cdefgh", x))
for client in "cdefg":
    pool.remove(client)
large = pickle.dumps(pool)
X, INT8_ROWS, MASK = x[None], np.array([1], np.int8), np.array([False, True])
CALLS = {
    "push that grows": (start, lambda pool: pool.push(grown)),
    "removal that halves": (large, lambda pool: pool.remove("h")),
    "copy": (start, lambda pool: pool.__reduce__()),
    "reset of a list": (start, lambda pool: pool._table.stream.reset([-1])),
    "reset of an array": (start, lambda pool: pool._table.stream.reset(INT8_ROWS)),
    "reset by a mask": (start, lambda pool: pool._table.stream.reset(MASK)),
    "push of rows": (start, lambda pool: pool._table.stream.push(X, INT8_ROWS)),
}


def states(pool):
    return {client: pool.get_state(client).tobytes() for client in pool.clients}


def has_memory(number, stop, call, pool):
    """Whether the call succeeds without the allocations from a number on, up to `stop` excluded."""
    error = None
    _testcapi.set_nomemory(number, stop)
    try:
        call(pool)
    except BaseException as raised:
        error = raised
    finally:
        _testcapi.remove_mem_hooks()
    assert error is None or type(error) is MemoryError, (number, error)
    return error is None


gc.disable()
for name, (pickled, call) in CALLS.items():
    pool = pickle.loads(pickled)
    before = states(pool)
    call(pool)
    after = states(pool)
    for length in (1, 5):
        number, n_succeeded = 1, 0
        while n_succeeded < 20:  # the call has fewer allocations
            pool = pickle.loads(pickled)
            is_done = has_memory(number, number + length, call, pool)
            n_succeeded = n_succeeded + 1 if is_done else 0
            assert states(pool) == (after if is_done else before), (name, number)
            number += 1
            assert number < 5000, name
print(True)
