"""Calls of the C functions in threads that c_callers.c starts. The first argument of the script is its library."""

from __future__ import annotations

import ctypes
import sys

import c_calls
import helpers
import numpy as np

_TYPES = ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int, ctypes.c_int
_address = ctypes.cast(ctypes.CDLL(sys.argv[1]).run_callers, ctypes.c_void_p).value
#: Status of calls in threads of C while this thread has released the GIL, or while it holds it.
run_without_gil, run_with_gil = (
    prototype(ctypes.c_int, *_TYPES)(_address) for prototype in (ctypes.CFUNCTYPE, ctypes.PYFUNCTYPE)
)
FORWARD, BACKWARD = map(c_calls.function_address, ("forward", "backward"))


class ForwardCalls:
    """`n` calls of forward for one case, and the arrays that they write."""

    def __init__(self, case, n, n_threads):
        self.outputs, self.n = [c_calls.forward_outputs(case) for _ in range(n)], n
        self.data = np.concatenate(
            [c_calls.call_record(case, **outputs, h0=case.h0, n_threads=n_threads) for outputs in self.outputs]
        )

    def run(self, times, runner=run_without_gil):
        return runner(FORWARD, self.data.ctypes.data, self.n, times)

    def have(self, expected):
        """Whether every call has written the bits of `expected`."""
        return all(
            helpers.same_bits(outputs["y"], expected["y"]) and helpers.same_bits(outputs["h"], expected["h_n"])
            for outputs in self.outputs
        )
