"""New arrays for results and tapes. Large ones lie where earlier ones have been, in blocks that `_core` keeps."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from indygru_cpu import _core

Array = np.ndarray[Any, Any]


def new(shape: tuple[int, ...], dtype: np.dtype[Any], zeroed: bool = False) -> Array:
    """Like `numpy.empty` or `numpy.zeros`, C-contiguous.

    A small array costs less than the Python around a block, and what is too large to be kept the system clears best,
    page by page when it is written to.
    """
    n_bytes = prod(shape) * dtype.itemsize
    if not _core.LEAST_KEPT <= n_bytes <= _core.MOST_KEPT:
        return np.zeros(shape, dtype) if zeroed else np.empty(shape, dtype)
    found = np.frombuffer(memoryview(_core.Room(n_bytes)), dtype).reshape(shape)
    if zeroed:
        found.fill(0)
    return found
