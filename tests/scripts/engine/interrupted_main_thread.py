"""Ctrl-C while another thread is in a call: the main thread gets it, and ends the call through `progress`."""

from __future__ import annotations

import os
import signal
import threading

import long_calls

from indygru_cpu import IndyGRU
from indygru_cpu._engine import _core

signal.signal(signal.SIGINT, signal.default_int_handler)  # shells ignore it in background jobs
stop, ended = threading.Event(), threading.Event()


def check_stop(*_):
    if stop.is_set():
        raise InterruptedError


def compute():
    try:
        IndyGRU(33, 17, seed=7).last(long_calls.broadcast_steps(50_000_000, 9, 33), progress=check_stop)
    except InterruptedError:
        ended.set()


threading.Thread(target=compute).start()
threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT)).start()
try:
    ended.wait(60)  # not join: before Python 3.13 an interrupted join takes the thread for ended
except KeyboardInterrupt:
    stop.set()
print(ended.wait(60) and _core.active_threads() == 0)
