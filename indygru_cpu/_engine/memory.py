"""Allocation of arrays for results and tapes. Large arrays reuse blocks from the core's memory pool."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from indygru_cpu._engine import _core
from indygru_cpu._typing import Array


def release() -> int:
    """Return the cached memory of the pool to the operating system.

    Freed blocks of a megabyte or more (scratch buffers, tapes and results) are cached for later calls, up to 192 MB in
    a process. Releasing them is useful in a small container between two phases of work, and before a process forks
    workers. Blocks in use are not affected. Later calls allocate new blocks.

    Returns
    -------
    int
        Bytes returned to the operating system.

    Examples
    --------
    >>> import indygru_cpu
    >>> indygru_cpu.release_memory() >= 0
    True
    >>> indygru_cpu.release_memory()
    0
    """
    return _core.release_memory()


def new(shape: tuple[int, ...], dtype: np.dtype[Any], zeroed: bool = False) -> Array:
    """A C-contiguous array, as from `numpy.empty`, or from `numpy.zeros` if `zeroed`.

    Only sizes that the pool caches come from it: for a small array the Python object around a block costs more than the
    allocation, and the operating system clears a larger array page by page when it is written.
    """
    n_bytes = prod(shape) * dtype.itemsize
    if not _core.LEAST_KEPT <= n_bytes <= _core.MOST_KEPT:
        allocate = np.zeros if zeroed else np.empty
        try:
            return allocate(shape, dtype)
        except MemoryError:
            if not _core.release_memory():
                raise
            return allocate(shape, dtype)  # the released blocks may suffice
    array = np.frombuffer(memoryview(_core.Room(n_bytes)), dtype).reshape(shape)
    if zeroed:
        array.fill(0)
    return array
