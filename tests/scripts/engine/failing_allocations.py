"""Every entry point while its first, second, ... allocation fails, under LD_PRELOAD of failing_malloc.c.

Prints leaks and, for each entry point, how often the call ended in a MemoryError, in an error of NumPy's iterators,
which do not say that memory was missing, and in a result.
"""

from __future__ import annotations

import ctypes
import gc
import re

import entry_points

#: What Python says of NumPy's iterators, which do not set a MemoryError.
NO_EXCEPTION = re.compile("NULL without setting an exception|without exception set")
library = ctypes.PyDLL(None)
library.live_blocks.restype = library.fail_allocation.restype = ctypes.c_long


def attempt(call, n):
    """Whether the call made an n-th allocation, and how it ended."""
    library.fail_allocation(n)
    try:
        call()
        outcome = "result"
    except MemoryError:
        outcome = "MemoryError"
    except SystemError as error:
        outcome = "NumPy" if NO_EXCEPTION.search(str(error)) else repr(error)
    return library.fail_allocation(0) <= 0, outcome


def leaked_blocks(call, n):
    """Blocks that ten failures leave behind."""
    gc.collect()
    before = library.live_blocks()
    for _ in range(10):
        attempt(call, n)
    gc.collect()
    return library.live_blocks() - before


calls, arrays = entry_points.make_calls()
before = [array.copy() for array in arrays]
gc.freeze()
for name, call in calls.items():
    for _ in range(100):
        call()
    outcomes = []
    while True:
        n = len(outcomes) + 1
        was_made, outcome = attempt(call, n)
        if not was_made:
            break
        outcomes.append(outcome)
        # The heap reaches a steady state after some repetitions.
        if outcome != "NumPy" and all(leaked_blocks(call, n) >= 10 for _ in range(30)):
            print("leak:", name, n)
    assert all(a.tobytes() == b.tobytes() for a, b in zip(arrays, before, strict=True)), name
    assert set(outcomes) <= {"MemoryError", "NumPy", "result"}, outcomes
    print(name.replace(" ", "-"), *(outcomes.count(outcome) for outcome in ("MemoryError", "NumPy", "result")))
