"""Threads and memory of the calling process, as Linux reports them, and limits on its address space."""

from __future__ import annotations

import os
import resource
from pathlib import Path

MEGABYTE = 1 << 20


def thread_count():
    return len(os.listdir("/proc/self/task"))


def _pages(field):
    return int(Path("/proc/self/statm").read_text().split()[field]) * resource.getpagesize()


def address_space_bytes():
    return _pages(0)


def resident_bytes():
    return _pages(1)


def limit_address_space(spare_bytes):
    """Let this process map at most `spare_bytes` more than it has mapped."""
    resource.setrlimit(resource.RLIMIT_AS, (address_space_bytes() + spare_bytes, resource.RLIM_INFINITY))


def unlimit_address_space():
    resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY,) * 2)


def peak_resident_bytes():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
