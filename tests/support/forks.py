"""Checks in forked children, for scripts about processes."""

from __future__ import annotations

import os
import signal
import warnings

# Python 3.12 warns of every fork while there are threads.
warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)


def in_child(check):
    """Fork; whether `check()` is true in the child."""
    child = os.fork()
    if not child:
        signal.alarm(50)
        status = 1
        try:
            status = 0 if check() else 2
        finally:
            os._exit(status)
    return os.waitpid(child, 0)[1] == 0
