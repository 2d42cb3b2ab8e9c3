"""Functions that take one step, for programs that watch what a step calls."""

from __future__ import annotations

import ctypes

import c_calls
import helpers
import numpy as np

from indygru_cpu import IndyGRU

#: Sizes (D, N) of steps that keep the GIL and of steps of a stream that release it.
SIZES = {"small": (40, 64), "large": (256, 256)}


def native_step(n_inputs, n_units):
    """`indygru_step` of one row, called with the GIL held."""
    case = helpers.random_case((1, 1, n_inputs, n_units), np.float32)
    h = case.h0.copy()
    call = c_calls.call_record(case, h=h, n_threads=1)
    argument = ctypes.c_void_p(call.ctypes.data)
    function = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.c_void_p)(c_calls.function_address("step"))

    def step(owners=(case, call, h)):
        assert function(argument) == 0

    return step


def steps():
    """Each kind of step by name."""
    functions = {}
    for size, (n_inputs, n_units) in SIZES.items():
        layer = IndyGRU(n_inputs, n_units, num_layers=2, seed=0, num_threads=1)
        x, rows = np.random.default_rng(0).standard_normal((1, n_inputs), dtype=np.float32), [5]
        for weights in ("float32", "bfloat16", "int8"):
            push_rows, push = layer.stream(8, weights=weights).push, layer.stream(weights=weights).push
            functions[f"{size} {weights} push of a row"] = lambda f=push_rows, x=x, rows=rows: f(x, rows)
            functions[f"{size} {weights} push"] = lambda f=push, x=x: f(x)
        functions[f"{size} indygru_step"] = native_step(n_inputs, n_units)
    return functions
