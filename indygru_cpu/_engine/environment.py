"""Environment variables that libraries read once, when they are loaded: set for the time of loading only."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

#: Iterations for which an idle thread of GCC's OpenMP spins before it sleeps: about 0.3 ms, a fifteenth of the default.
#: Consecutive calls find the threads awake, and NumPy's BLAS threads get the cores in between.
GOMP_SPIN_COUNT = "20000"


@contextmanager
def temporary_variable(name: str, value: str) -> Iterator[None]:
    """Set an environment variable, and restore it at the end."""
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def short_openmp_spin() -> AbstractContextManager[None]:
    """Shorten the spinning of OpenMP's idle threads, unless the environment already determines it."""
    if os.environ.keys() & {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"}:
        return nullcontext()
    return temporary_variable("GOMP_SPINCOUNT", GOMP_SPIN_COUNT)
