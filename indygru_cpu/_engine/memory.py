"""Allocation of arrays for results and tapes. Large arrays reuse blocks from the core's memory pool."""

from __future__ import annotations

from indygru_cpu._engine import _core


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


#: A C-contiguous array, as from `numpy.empty`, or from `numpy.zeros`. The arguments are shape, dtype and is_zeroed.
new = _core.new_array
