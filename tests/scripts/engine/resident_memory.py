"""Prints entry points whose repeated calls grow the resident memory, refused calls included. Argument: a folder."""

from __future__ import annotations

import contextlib
import gc
import sys

import entry_points
from process_state import resident_bytes

from indygru_cpu import IndyGRU, functional

CALLS = {"save": 100, "load": 100, "IndyGRU": 1_000, "dynamic_rnn": 1_000, "stream": 1_000, "growing pool": 1_000}


def growth(call, n):
    gc.collect()
    before = resident_bytes()
    for _ in range(n):
        call()
    gc.collect()
    return resident_bytes() - before


def refused(call):
    def attempt():
        with contextlib.suppress(TypeError, ValueError):
            call()
            print("not refused")

    return attempt


calls, arrays = entry_points.make_calls(sys.argv[1])
x, _, kernel, *_ = arrays
layer = IndyGRU(4, 7, seed=1)
wrong_calls = [
    lambda: layer(x[..., :3]),
    lambda: layer(x, lengths=[9, 9, 9]),
    lambda: layer.stream().push(x[0, :, :3]),
    lambda: functional.forward(x, None, kernel, x, None),
    lambda: layer(x, progress=lambda *_: int("x")),
]
calls |= {f"refused {i}": refused(call) for i, call in enumerate(wrong_calls)}
for name, call in calls.items():
    n = CALLS.get(name, 10_000)
    growth(call, n // 10)
    # One measurement may see the heap being laid out anew.
    if all((grown := growth(call, n)) > 16 * n + 64 * 1024 for _ in range(3)):
        print(name, grown)
