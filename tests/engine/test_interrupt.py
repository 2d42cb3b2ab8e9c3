"""Ctrl-C during calls that take a minute or more ends them soon, and leaves layers, streams and threads usable."""

from __future__ import annotations

import sys

import long_calls
import pytest

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="sends SIGINT to itself")

#: On so many threads of any machine, every call takes longer than the wait before the signal.
N_THREADS = 2


@pytest.mark.parametrize("name", long_calls.CALLS)
def test_interrupt_of_a_long_call_ends_it_within_two_seconds(run_script, name):
    """The limit is two seconds of processor time of each thread. The target is 0.05 s (docs/guarantees.md)."""
    reserved = long_calls.RESERVED.get(name, 1)
    printed = run_script("engine/interrupted_call.py", name, reserved, OMP_NUM_THREADS=str(N_THREADS))
    if printed.startswith(long_calls.NO_ADDRESS_SPACE):
        pytest.skip(printed)
    assert float(printed) < 2 * N_THREADS
    print(f"{name}: {printed} s")


def test_interrupt_during_a_call_of_another_thread_reaches_the_main_thread(run_script):
    """Python delivers signals to its main thread, which stops the call through `progress`."""
    assert run_script("engine/interrupted_main_thread.py") == "True"
