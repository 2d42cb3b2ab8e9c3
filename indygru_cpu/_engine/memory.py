"""New arrays for results and tapes. Large ones lie where earlier ones have been, in blocks that `_core` keeps."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from indygru_cpu._engine import _core
from indygru_cpu._typing import Array


def release() -> int:
    """Return the memory that is kept for later calls to the system.

    Scratch, tapes and results of a megabyte or more stay with the process when nobody refers to them any more, at most
    192 MB of them. This is for a small container between two phases of work, and for a process before it forks
    workers. Blocks in use stay. Calls afterwards allocate anew.

    Returns
    -------
    int
        Bytes that were returned to the system.

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
    """Like `numpy.empty` or `numpy.zeros`, C-contiguous.

    A small array costs less than the Python around a block, and what is too large to be kept the system clears best,
    page by page when it is written to.
    """
    n_bytes = prod(shape) * dtype.itemsize
    if not _core.POOL_MIN_BLOCK <= n_bytes <= _core.POOL_MAX_BYTES:
        make = np.zeros if zeroed else np.empty
        try:
            return make(shape, dtype)
        except MemoryError:
            if not _core.release_memory():
                raise
            return make(shape, dtype)  # the released blocks may suffice
    found = np.frombuffer(memoryview(_core.PooledBuffer(n_bytes)), dtype).reshape(shape)
    if zeroed:
        found.fill(0)
    return found
