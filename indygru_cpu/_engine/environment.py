"""Libraries that read the environment once, when they are opened: what they are to find there, for just that moment."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

#: Turns of an idle GCC OpenMP thread's loop before it sleeps: some 0.3 ms, a fifteenth of its default. Long enough for
#: one call after another to find it awake, short enough to leave its core to NumPy's BLAS threads in between.
SPINS = "20000"


@contextmanager
def for_a_moment(name: str, value: str) -> Iterator[None]:
    """With a variable set, or set anew."""
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def short_waits() -> AbstractContextManager[None]:
    """OpenMP's threads are to wait for a short time only, unless the user has said how they wait."""
    if os.environ.keys() & {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"}:
        return nullcontext()
    return for_a_moment("GOMP_SPINCOUNT", SPINS)
