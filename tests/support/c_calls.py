"""Calls of the C functions from Python, for tests: the functions by name, and records for a case."""

from __future__ import annotations

import ctypes

import helpers
import numpy as np

from indygru_cpu import c_api

WEIGHTS = ("kernel", "recurrent_kernel", "bias")
SIZES = ("n_steps", "n_batch", "n_inputs", "n_units")


def function_address(name):
    """The address of a c_function of indygru_call.h."""
    capsule = c_api.__pyx_capi__[f"indygru_{name}"]
    pointer = ctypes.pythonapi.PyCapsule_GetPointer
    pointer.restype, pointer.argtypes = ctypes.c_void_p, (ctypes.py_object, ctypes.c_char_p)
    return pointer(capsule, b"int (indygru_call const *)")


def c_function(name):
    return ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p)(function_address(name))


def call_record(case, **fields):
    """A call with the sizes, weights and inputs of a case; fields are numbers, or arrays, which must stay alive."""
    call = np.zeros(1, c_api.CALL)
    sizes = dict(zip(SIZES, (*case.x.shape, case.h0.shape[1]), strict=True))
    options = {"size": c_api.CALL.itemsize, "dtype": case.x.dtype == np.float64, "n_threads": 2, "n_groups": 1}
    options["without_reset_gate"] = not case.reset_gate
    options["activation"] = helpers.ACTIVATIONS.index(case.activation)
    arrays = {name: getattr(case, name) for name in ("x", "lengths", *WEIGHTS)}
    for name, value in (sizes | options | arrays | fields).items():
        call[name] = value.ctypes.data if isinstance(value, np.ndarray) else 0 if value is None else value
    return call


def status_of_call(function, case, **fields):
    """The status that a c_function returns. The record has a name, so that it is not freed before the call."""
    record = call_record(case, **fields)
    return function(record.ctypes.data)


def forward_outputs(case, with_tape=True):
    """Arrays that forward writes, filled with NaN, and h with the first state."""
    tape = np.full((3 if case.reset_gate else 2) * case.dy.size, np.nan, case.x.dtype) if with_tape else None
    return {"y": np.full_like(case.dy, np.nan), "h": case.h0.copy(), "tape": tape}


def backward_outputs(case):
    """Arrays that backward writes or adds to."""
    return {"dx": np.zeros_like(case.x), "dh": case.dh_n.copy()} | {
        f"d{name}": np.zeros_like(getattr(case, name)) for name in WEIGHTS
    }


def gradients(buffer):
    """Gradients of backward's outputs by the names of `helpers.GRADIENTS`."""
    return {name: buffer["dh" if name == "h0" else f"d{name}"] for name in helpers.GRADIENTS}
