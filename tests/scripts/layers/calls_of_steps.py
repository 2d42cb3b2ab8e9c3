"""Prints the allocations and the locks of a thousand steps of each kind. counted_calls.c is preloaded."""

from __future__ import annotations

import ctypes
import itertools

from steps import steps

count_calls = ctypes.PyDLL(None).count_calls
count_calls.restype = ctypes.c_long


def counted(function):
    """Numbers of allocations and of locks, without those of an empty loop."""
    counts = []
    for call in (int, function):
        for _ in range(50):
            call()
        before = [count_calls(0, kind) for kind in (0, 1)]
        count_calls(1, 0)
        for _ in itertools.repeat(None, 1000):
            call()
        counts.append([count_calls(0, kind) - before[kind] for kind in (0, 1)])
    return counts[1][0] - counts[0][0], counts[1][1] - counts[0][1]


for name, step in steps().items():
    print(name, *counted(step), sep=",")
