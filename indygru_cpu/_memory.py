"""New arrays for results and tapes. Large ones lie where earlier ones have been, in blocks that `_core` keeps."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from indygru_cpu import _core

Array = np.ndarray[Any, Any]

#: Bytes from which on a new page for each of them costs more than a step's Python.
LARGE = 1 << 20


def empty(shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """Like `numpy.empty`, C-contiguous."""
    n_bytes = prod(shape) * dtype.itemsize
    if n_bytes < LARGE:
        return np.empty(shape, dtype)
    return np.frombuffer(memoryview(_core.Room(n_bytes)), dtype).reshape(shape)


def zeros(shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """Like `numpy.zeros`, C-contiguous."""
    new = empty(shape, dtype)
    new.fill(0)
    return new
