"""The serial results of `parallel_layer`, and a limit on the number of threads, for scripts about RLIMIT_NPROC.

The limit counts all processes of a user, so this process becomes a user of its own if it can.
"""

from __future__ import annotations

import os
import resource

from parallel_layer import all_results

expected = all_results(1)


def set_limit(n_threads):
    resource.setrlimit(resource.RLIMIT_NPROC, (n_threads, resource.getrlimit(resource.RLIMIT_NPROC)[1]))


def limit_threads(n_threads):
    """Allow this process so many threads; the superuser becomes a user without other processes."""
    set_limit(n_threads)
    if not os.getuid():
        os.setuid(50_000 + os.getpid() % 10_000)
