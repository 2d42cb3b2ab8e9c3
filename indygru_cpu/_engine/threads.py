"""How many threads a call may use, and why.

A call uses as many threads as it names (`num_threads=`, or else the variable INDYGRU_CPU_NUM_THREADS). A call that
names no number may use OMP_NUM_THREADS, else the smallest of OpenMP's own maximum, the processors this process may use,
and its cgroup's share of processor time (both as they were when first asked), less the threads that calls of other
Python threads have at work. Up to this limit the core chooses a number by the measured costs of such calls
(csrc/thread_autotuner.c).

A child made by fork after a parallel call stays serial, because OpenMP does not survive that. A small job stays serial,
because a parallel region would save it microseconds.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from math import ceil
from typing import TYPE_CHECKING, NamedTuple

from indygru_cpu._engine import _core
from indygru_cpu._engine.messages import shown

if TYPE_CHECKING:
    from pathlib import Path

#: Multiply-adds of a call from which on it may be parallel.
LEAST_WORK = _core.MIN_WORK
#: Of all calls of a process that are at work at once.
MOST_THREADS = _core.MAX_THREADS

#: The environment variable with the number of threads of calls that name none; "auto", the default, lets them choose.
VARIABLE = "INDYGRU_CPU_NUM_THREADS"

_warned_of_fork = False


@dataclass(frozen=True)
class Choice:
    """A number of threads and what decided it."""

    count: int
    reason: str


class Threads(NamedTuple):
    """Threads of a call: the number, or, if `is_chosen` in the core, its upper limit."""

    number: int
    is_chosen: bool


class ThreadStatistics(NamedTuple):
    """Measured costs of calls of one kind.

    Attributes
    ----------
    job : str
        forward, backward, or step (of a stream).
    multiply_adds : tuple of float
        The smallest work of such a call, and the bound that its work stays below.
    steps : int
        The least number of steps of such a call; the most is four times that.
    place : str
        following (directly after another call of the same Python thread) or alone.
    nanoseconds : dict of int to float
        Moving averages of the time of one multiply-add, by the number of threads, rounded up to a power of two.
    """

    job: str
    multiply_adds: tuple[float, float]
    steps: int
    place: str
    nanoseconds: dict[int, float]


def statistics() -> list[ThreadStatistics]:
    """Return the measured costs by which calls that name no number of threads choose one.

    Returns
    -------
    list of ThreadStatistics
        One for each kind of call that has had a choice in this process.

    Examples
    --------
    >>> import indygru_cpu
    >>> for each in indygru_cpu.thread_statistics():
    ...     print(each.job, each.place, each.multiply_adds, each.nanoseconds)  # doctest: +SKIP
    """
    return [
        ThreadStatistics(job, (2.0**size, 2.0 ** (size + 1)), steps, place, costs)
        for (job, size, steps, place), costs in _core.thread_costs().items()
    ]


def last_num_threads() -> int:
    """Return the number of threads of the last call, forward or backward, that this Python thread has made.

    Single steps that may use only one thread do not count, except for long steps of a stream. For a stack it is the
    number of the last layer. Where the system lets no more threads start, a call runs on fewer than this number.

    Returns
    -------
    int
        0 if there was no call.

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


#: Read once, at import.
_ENVIRONMENT = _from_environment()


def asked(num_threads: int | None) -> int | None:
    """The number that a call, or else the environment, names; None if neither does."""
    return _ENVIRONMENT if num_threads is None else num_threads


def _read(path: Path) -> str:
    """The text, or nothing where it cannot be read: a process need not be able to see its own limits."""
    try:
        return path.read_text()
    except (OSError, ValueError):
        return ""


def _cgroups(root: Path, own: Path) -> Iterator[Path]:
    """Folders of the groups that this process is in, each with all above it: every one of them may have a limit."""
    for line in ["::", *_read(own).splitlines()]:
        _, _, name = (*line.split(":", 2), "", "")[:3]  # a line of another form names no group
        path = root / name.lstrip("/")
        for folder in (path, *path.parents):
            if folder == root or root in folder.parents:
                yield folder
                yield root / "cpu" / folder.relative_to(root)


def _quota(folder: Path) -> float | None:
    """What a group's files grant: those of version 2, or else of version 1."""
    texts = _read(folder / "cpu.max").split()
    if not texts:
        texts = [*_read(folder / "cpu.cfs_quota_us").split(), *_read(folder / "cpu.cfs_period_us").split()]
    try:
        quota, period = map(int, texts)
    except ValueError:  # "max", or what cannot be read
        return None
    return quota / period if quota > 0 and period > 0 else None


def cgroup_quota(root: str = "/sys/fs/cgroup", own: str = "/proc/self/cgroup") -> float | None:
    """Processors that the cgroups of this process grant (version 2 or 1), or None without a limit."""
    from pathlib import Path  # here: an import need not wait for it

    found = [_quota(folder) for folder in _cgroups(Path(root), Path(own))]
    return min((quota for quota in found if quota is not None), default=None)


def affinity() -> int:
    """Processors that this process may run on."""
    try:
        return len(os.sched_getaffinity(0))
    except (AttributeError, OSError):  # macOS and Windows have no masks, and a sandbox may refuse them
        return os.cpu_count() or 1


@cache
def _machine() -> Choice:
    """What the machine grants. Asked once: it costs more than a small call's arithmetic."""
    limits = [(MOST_THREADS, "the library's bound")]
    if "OMP_NUM_THREADS" not in os.environ:
        limits.append((affinity(), "processors of this process"))
        if quota := cgroup_quota():
            limits.append((max(1, ceil(quota)), "cgroup quota"))
    return Choice(*min(limits))


def _without_fork() -> Choice:
    openmp: int = _core.openmp_threads()
    if not openmp:
        return Choice(1, "built without OpenMP")
    return Choice(openmp, "OpenMP's maximum") if openmp <= _machine().count else _machine()


def default() -> Choice:
    """The number of threads of a call that asks for none while no other is at work, and the reason."""
    if _core.is_forked():
        return Choice(1, "child of a fork")
    if _ENVIRONMENT is not None and _core.openmp_threads():
        return Choice(min(_ENVIRONMENT, MOST_THREADS), VARIABLE)
    return _without_fork()


def warn_of_fork() -> None:
    """Say once in a process, before a call has changed anything, that it stays serial. It may be made an error."""
    global _warned_of_fork
    if not _warned_of_fork:
        _warned_of_fork = True
        warnings.warn(
            "indygru_cpu: this process was forked from one that had made a parallel call, and OpenMP's threads do not "
            "survive a fork: its calls run on one thread, with the same results. To run them in parallel, start the "
            'process by "spawn" or "forkserver"; to keep it serial without this warning, say num_threads=1.',
            RuntimeWarning,
            stacklevel=3,
        )


def count(num_threads: int | None, work: float) -> int:
    """Threads for a call of so many multiply-adds."""
    if num_threads == 1 or work < LEAST_WORK or not _core.openmp_threads():
        return 1
    wanted = _without_fork().count if num_threads is None else min(num_threads, MOST_THREADS)
    if wanted > 1 and _core.is_forked():
        warn_of_fork()
        return 1
    return max(1, wanted - _core.active_threads()) if num_threads is None else wanted
