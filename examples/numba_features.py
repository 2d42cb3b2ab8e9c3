"""Speaker classification with Numba: random IndyGRU features of utterances on all processors, and ridge regression.

pip install indygru_cpu numba && python examples/numba_features.py
"""

from __future__ import annotations

import ctypes
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numba
import numpy as np
from numba.extending import get_cython_function_address

from indygru_cpu import IndyGRU
from indygru_cpu.c_api import CALL, message
from indygru_cpu.datasets import Utterances, japanese_vowels

Array = np.ndarray[Any, Any]
ADDRESS = get_cython_function_address("indygru_cpu.c_api", "indygru_forward")
indygru_forward = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p)(ADDRESS)


@numba.njit(nogil=True)
def features(x: Array, lengths: Array, calls: Array, out: Array) -> int:
    """Last and mean state of each utterance; x (B, T, 12), calls (B,), out (B, 2N). Returns the worst status."""
    n_units, worst = out.shape[1] // 2, 0
    for i in range(len(x)):
        h, y = np.zeros(n_units, np.float32), np.empty((lengths[i], n_units), np.float32)
        call = calls[i : i + 1]
        call[0].n_steps, call[0].n_batch = lengths[i], 1
        call[0].x, call[0].h, call[0].y = x[i].ctypes.data, h.ctypes.data, y.ctypes.data
        worst = max(worst, indygru_forward(call.ctypes))
        out[i, :n_units], out[i, n_units:] = h, y.sum(axis=0) / lengths[i]
    return worst


def run(layer: IndyGRU, part: Utterances) -> Array:
    """Features, with a column of ones."""
    calls, weights = np.zeros(len(part.lengths), CALL), layer.parameters
    calls["size"], calls["n_threads"], calls["n_groups"] = CALL.itemsize, 1, 1
    calls["n_inputs"], calls["n_units"] = layer.input_size, layer.hidden_size
    for name in ("kernel", "recurrent_kernel", "bias"):
        calls[name] = weights[f"{name}_l0"].ctypes.data
    out = np.ones((len(calls), 2 * layer.hidden_size + 1), np.float32)
    x, rows = np.ascontiguousarray(part.x.swapaxes(0, 1)), range(0, len(calls), 100)
    with ThreadPoolExecutor() as pool:  # its threads do not need the GIL
        parts = [[array[i : i + 100] for i in rows] for array in (x, part.lengths, calls, out[:, :-1])]
        if status := max(pool.map(features, *parts)):
            raise RuntimeError(message(status))
    return out


train, test = japanese_vowels()
layer = IndyGRU(12, 256, seed=0)
train_features = run(layer, train)
ridge = train_features.T @ train_features + 0.01 * np.eye(train_features.shape[1])
readout = np.linalg.solve(ridge, train_features.T @ np.eye(9)[train.speakers])
print(f"Test accuracy: {100 * ((run(layer, test) @ readout).argmax(axis=1) == test.speakers).mean():.1f}%")
