"""How many threads a call uses, and why.

Asked for (`num_threads=`), else OMP_NUM_THREADS, else the smallest of OpenMP's own maximum, the processors this process
may use, and its cgroup's share of processor time (both as they were when first asked). A child made by fork stays
serial, because OpenMP does not survive fork; a small job stays serial, because a parallel region would save it
microseconds, and costs milliseconds where another program holds a core.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cache
from math import ceil
from pathlib import Path

from indygru_cpu import _core

#: Multiply-adds below which a parallel region saves microseconds only (CONTRIBUTING.md has the figures).
LEAST_WORK = 1_000_000
#: OpenBLAS has a fixed number of work buffers; this many threads in a call stay far below it.
MOST_THREADS = 64


@dataclass(frozen=True)
class Choice:
    """A number of threads and what decided it."""

    count: int
    reason: str


def cgroup_quota(root: str = "/sys/fs/cgroup") -> float | None:
    """Processors that the cgroup grants (version 2, then 1), or None without a limit."""
    try:
        quota, period = Path(root, "cpu.max").read_text().split()
    except (OSError, ValueError):
        try:
            quota = Path(root, "cpu/cpu.cfs_quota_us").read_text().strip()
            period = Path(root, "cpu/cpu.cfs_period_us").read_text().strip()
        except OSError:
            return None
    return int(quota) / int(period) if quota not in ("max", "-1") else None


def affinity() -> int:
    """Processors that this process may run on."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # macOS and Windows have none
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


def default() -> Choice:
    """The number of threads of a call that asks for none, and the reason."""
    openmp: int = _core.openmp_threads()
    if not openmp:
        return Choice(1, "built without OpenMP")
    if _core.is_forked():
        return Choice(1, "child of a fork")
    return Choice(openmp, "OpenMP's maximum") if openmp <= _machine().count else _machine()


def count(num_threads: int | None, work: float) -> int:
    """Threads for a call of so many multiply-adds."""
    if work < LEAST_WORK or not _core.openmp_threads() or _core.is_forked():
        return 1
    return default().count if num_threads is None else min(num_threads, MOST_THREADS)
