"""Makes tiny calls on one thread for `instructions.py`, which runs it under callgrind.

It prints, as JSON, what the instructions of a call depend on, and the names of the calls. Then it makes N and 2N calls
of each kind, with a call of `_core.active_threads` before and after each of these blocks.
"""

from __future__ import annotations

import gc
import json
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from indygru_cpu import IndyGRU, functional
from indygru_cpu._engine import _core

N_CALLS = 100


def make_calls(call: Callable[[], Any], n_calls: int) -> None:
    """Make calls in a loop."""
    for _ in range(n_calls):
        call()


def calls() -> dict[str, Callable[[], Any]]:
    """Return the calls at (T, B, D, N) = (2, 1, 8, 8) by name; the first is the reference."""
    layer = IndyGRU(8, 8, seed=0, num_threads=1)
    weights = layer.parameters.values()
    x = np.random.default_rng(0).standard_normal((2, 1, 8), dtype=np.float32)
    y, h_n = layer(x)
    a, b, c = np.ones((3, 32), np.float32)

    def train() -> Any:
        tape = layer.forward(x)[2]
        return layer.backward(tape, y)

    return {
        "numpy.add": partial(np.add, a, b, out=c),
        "layer(x)": partial(layer, x),
        "layer(x,out,h_out)": partial(layer, x, out=y.copy(), h_out=h_n.copy()),
        "forward+backward": train,
        "functional.step": partial(functional.step, x[0], h_n[0], *weights, out=h_n[0].copy()),
    }


def main() -> None:
    """Make all blocks of calls."""
    # With its build: compilers and options of Python change the counts.
    versions = {"tier": _core.tier_in_use(), "Python": " ".join(sys.version.split()), "NumPy": np.__version__}
    kinds = calls()
    print(json.dumps({"versions": versions, "calls": list(kinds), "n_calls": N_CALLS}))
    for call in kinds.values():
        make_calls(call, N_CALLS)  # fills the caches of the interpreter and of the library
        for n_calls in (N_CALLS, 2 * N_CALLS):
            _core.active_threads()
            make_calls(call, n_calls)
            _core.active_threads()


if __name__ == "__main__":
    gc.disable()
    main()
