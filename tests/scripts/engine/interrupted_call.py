"""Ctrl-C during a call of `long_calls`. Arguments: its name, and GiB of address space that it reserves.

Prints the processor time, of all threads, from the signal to the end of the call; or why the call is impossible here.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time

import long_calls
import numpy as np

from indygru_cpu import IndyGRU
from indygru_cpu._engine import _core

signal.signal(signal.SIGINT, signal.default_int_handler)  # shells ignore it in background jobs
name, reserved = sys.argv[1], int(sys.argv[2])
try:
    np.empty(reserved * 2**30, np.uint8)
except MemoryError as error:
    print(f"{long_calls.NO_ADDRESS_SPACE}: {error}")
    sys.exit()
call, unchanged = long_calls.CALLS[name]()
before = [array.copy() for array in unchanged]
sent = []


def interrupt():
    while not _core.active_threads():
        time.sleep(0.001)
    time.sleep(0.2)
    sent.append(time.process_time())
    os.kill(os.getpid(), signal.SIGINT)


threading.Thread(target=interrupt).start()
try:
    call()
except KeyboardInterrupt:
    latency = time.process_time() - sent[0]
assert all(a.tobytes() == b.tobytes() for a, b in zip(unchanged, before, strict=True))
layer = IndyGRU(33, 65, seed=7)
y, _, tape = layer.forward(long_calls.random(70, 17, 33), num_threads=2)
layer.backward(tape, y)
assert _core.active_threads() == 0
print(latency)
