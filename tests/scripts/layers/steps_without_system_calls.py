"""Takes steps in a process in which any other system call than write and exit ends it. Linux on x86-64 or aarch64."""

from __future__ import annotations

import ctypes
import gc
import itertools
import os
import platform

from steps import steps

PR_SET_SECCOMP, SECCOMP_MODE_STRICT = 22, 1
EXIT = {"x86_64": 60, "aarch64": 93}[platform.machine()]
libc = ctypes.CDLL(None)
functions = list(steps().values())


def take_steps():
    for function in functions:
        for _ in itertools.repeat(None, 300):
            function()


take_steps()
gc.disable()
os.write(1, b"steps\n" if libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_STRICT, 0, 0, 0) == 0 else b"not supported\n")
take_steps()
os.write(1, b"done\n")
libc.syscall(EXIT, 0)
