"""The number of threads of a call, and the reason for it.

A call uses the number of threads that it names (`num_threads=`, or else the variable INDYGRU_CPU_NUM_THREADS). For a
call that names no number the limit is OMP_NUM_THREADS if that is set, and otherwise the smallest of OpenMP's maximum,
the processors that this process may use, and its cgroup's quota of processor time (the last two are read once). The
threads that calls of other Python threads use at that time are subtracted. Up to this limit, the core chooses a number
by the measured costs of similar calls (csrc/thread_autotuner.c).

A child process forked after a parallel call stays serial, because OpenMP's threads do not survive a fork. A call with
little work stays serial, because entering a parallel region takes longer than the parallel part saves.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from math import ceil
from threading import Lock
from typing import TYPE_CHECKING, NamedTuple

from indygru_cpu._engine import _core
from indygru_cpu._engine.messages import shown

if TYPE_CHECKING:
    from pathlib import Path

#: The largest number of threads of all running calls of a process together.
MAX_THREADS = _core.MAX_THREADS

#: The environment variable with the number of threads of calls that name none. "auto", the default: each call chooses.
VARIABLE = "INDYGRU_CPU_NUM_THREADS"

#: The first thread that warns of a fork acquires it and never releases it, so that only one warns.
_fork_warning = Lock()


@dataclass(frozen=True)
class ThreadLimit:
    """A limit on the number of threads, and the reason for it."""

    count: int
    reason: str


class Threads(NamedTuple):
    """The number of threads of a call; if `autotune`, the upper limit of the number that the core chooses."""

    number: int
    autotune: bool


class ThreadStatistics(NamedTuple):
    """Measured costs of calls of the same operation, with similar work and a similar number of steps.

    Attributes
    ----------
    operation : str
        forward, backward, or step (of a stream).
    multiply_adds : tuple of float
        The range of the work of these calls: at least the first number, and less than the second.
    steps : int
        The smallest number of steps of these calls. The ranges of steps differ by factors of four.
    spacing : str
        back to back (directly after another call of the same Python thread) or isolated.
    nanoseconds : dict of int to float
        Moving averages of the time of one multiply-add, by the number of threads, rounded up to a power of two.
    """

    operation: str
    multiply_adds: tuple[float, float]
    steps: int
    spacing: str
    nanoseconds: dict[int, float]


def statistics() -> list[ThreadStatistics]:
    """Return the measured costs by which calls that name no number of threads choose it.

    Returns
    -------
    list of ThreadStatistics
        One for each kind of call for which a number was chosen in this process.

    Examples
    --------
    >>> import indygru_cpu
    >>> for each in indygru_cpu.thread_statistics():
    ...     print(each.operation, each.spacing, each.multiply_adds, each.nanoseconds)  # doctest: +SKIP
    """
    return [
        ThreadStatistics(operation, (2.0**size, 2.0 ** (size + 1)), steps, spacing, costs)
        for (operation, size, steps, spacing), costs in _core.thread_costs().items()
    ]


class ChunkStatistics(NamedTuple):
    """Steps times units of one direction that ran in chunks of time, and how many of them ran twice."""

    steps: int
    repeated: int


def chunk_statistics() -> ChunkStatistics:
    """Return how much work of this process ran in chunks of time, and how much of it twice.

    Forward and backward over at least 4096 steps of few units run chunks of time side by side. All chunks but the first
    begin with a guess of their state, and repeat their first steps with the true state until both runs agree bit by
    bit. Results are those of the sequence. After chunks that do not agree, the next steps run in sequence.

    Returns
    -------
    ChunkStatistics
        `steps`: the number of steps that ran in chunks, times the units, of all calls of this process. `repeated`: how
        many of them ran again.

    Examples
    --------
    >>> import numpy as np
    >>> import indygru_cpu
    >>> before = indygru_cpu.chunk_statistics()
    >>> y, h_n = indygru_cpu.IndyGRU(2, 3, seed=0)(np.ones((20_000, 1, 2), np.float32))
    >>> after = indygru_cpu.chunk_statistics()
    >>> after.steps - before.steps >= 60_000
    True
    >>> (after.repeated - before.repeated) / (after.steps - before.steps) < 0.2
    True
    """
    return ChunkStatistics(*_core.chunked_steps())


def last_num_threads() -> int:
    """Return the number of threads of the last forward or backward call of this Python thread.

    Single steps that are limited to one thread are not recorded, except long steps of a stream. For a stack it is the
    number of the last layer. If the system cannot start more threads, a call runs on fewer than this number.

    Returns
    -------
    int
        0 before the first call.

    Examples
    --------
    >>> import numpy as np
    >>> import indygru_cpu
    >>> y, h_n = indygru_cpu.IndyGRU(3, 5, seed=0)(np.ones((9, 4, 3), np.float32))
    >>> indygru_cpu.last_num_threads()
    1
    """
    return _core.last_threads()


def _from_environment() -> int | None:
    text = os.environ.get(VARIABLE, "")
    if text.lower() in ("", "auto"):
        return None
    if not (text.isascii() and text.isdecimal()) or len(text) > 9 or int(text) < 1:
        raise ImportError(f"{VARIABLE}: expected auto or a number of threads of at least 1, got {shown(text)}")
    return int(text)


#: The value of VARIABLE, read once at import.
_ENVIRONMENT = _from_environment()


def requested(num_threads: int | None) -> int | None:
    """The number that the call names, or else the environment; None if neither does."""
    return _ENVIRONMENT if num_threads is None else num_threads


def _read(path: Path) -> str:
    """The text of a file; empty if the file cannot be read, as in a sandbox."""
    try:
        return path.read_text()
    except (OSError, ValueError):
        return ""


def _cgroups(root: Path, membership: Path) -> Iterator[Path]:
    """Folders of the cgroups listed in the file `membership`, and of their ancestors. Each of them may have a quota."""
    for line in ["::", *_read(membership).splitlines()]:
        _, _, name = (*line.split(":", 2), "", "")[:3]  # a line in another format yields the root
        path = root / name.lstrip("/")
        for folder in (path, *path.parents):
            if folder == root or root in folder.parents:
                yield folder
                yield root / "cpu" / folder.relative_to(root)


def _quota(folder: Path) -> float | None:
    """The quota of one cgroup in processors: from the files of version 2, or else of version 1."""
    texts = _read(folder / "cpu.max").split()
    if not texts:
        texts = [*_read(folder / "cpu.cfs_quota_us").split(), *_read(folder / "cpu.cfs_period_us").split()]
    try:
        quota, period = map(int, texts)
    except ValueError:  # "max", or no file
        return None
    return quota / period if quota > 0 and period > 0 else None


def cgroup_quota(root: str = "/sys/fs/cgroup", membership: str = "/proc/self/cgroup") -> float | None:
    """The smallest quota of this process's cgroups (version 2 or 1) in processors; None without a quota."""
    from pathlib import Path  # deferred: importing the package stays fast

    quotas = [_quota(folder) for folder in _cgroups(Path(root), Path(membership))]
    return min((quota for quota in quotas if quota is not None), default=None)


def affinity() -> int:
    """The number of processors that this process may run on."""
    try:
        return len(os.sched_getaffinity(0))
    except (AttributeError, OSError):  # macOS and Windows have no affinity; a sandbox may deny it
        return os.cpu_count() or 1


@cache
def _machine_limit() -> ThreadLimit:
    """The limit that the machine and the process's configuration set. Cached, because reading it is slow."""
    limits = [(MAX_THREADS, "the library's bound")]
    if "OMP_NUM_THREADS" not in os.environ:
        limits.append((affinity(), "processors of this process"))
        if quota := cgroup_quota():
            limits.append((max(1, ceil(quota)), "cgroup quota"))
    return ThreadLimit(*min(limits))


def _unforked_limit() -> ThreadLimit:
    """The limit of a process in which OpenMP can start threads."""
    openmp = _core.openmp_threads()
    if not openmp:
        return ThreadLimit(1, "built without OpenMP")
    return ThreadLimit(openmp, "OpenMP's maximum") if openmp <= _machine_limit().count else _machine_limit()


def default() -> ThreadLimit:
    """The limit of a call that names no number while no other call is running, and the reason for it."""
    if _core.is_forked():
        return ThreadLimit(1, "child of a fork")
    if _ENVIRONMENT is not None and _core.openmp_threads():
        return ThreadLimit(min(_ENVIRONMENT, MAX_THREADS), VARIABLE)
    return _unforked_limit()


def warn_of_fork() -> None:
    """Warn, once in a process, that calls stay serial after a fork.

    It is called before a call changes anything, because a filter may turn the warning into an error.
    """
    if _fork_warning.acquire(blocking=False):
        warnings.warn(
            "indygru_cpu: this process was forked from one that had made a parallel call, and OpenMP's threads do not "
            "survive a fork: its calls run on one thread, with the same results. To run them in parallel, start the "
            'process by "spawn" or "forkserver"; to keep it serial without this warning, pass num_threads=1.',
            RuntimeWarning,
            stacklevel=3,
        )


def count(num_threads: int | None, work: float) -> int:
    """The number of threads of a call with this number of multiply-adds."""
    if num_threads == 1 or not _core.is_parallel_work(work):
        return 1
    limit = _unforked_limit().count if num_threads is None else min(num_threads, MAX_THREADS)
    if limit > 1 and _core.is_forked():
        warn_of_fork()
        return 1
    return max(1, limit - _core.active_threads()) if num_threads is None else limit
