"""The floating-point state of the calling thread, through C's own functions: for glibc on x86-64 and aarch64."""

from __future__ import annotations

import ctypes
import platform
import struct

import numpy as np

#: Where fenv_t has what a program can set or see: control and status words, and the same of the vector unit. What else
#: x87 keeps there, such as its last instruction's address, is not a state that computes.
_WORDS = {"x86_64": [(0, "<H"), (4, "<H"), (28, "<I")], "aarch64": [(0, "<I"), (4, "<I")]}
_MODES = {"x86_64": (0x400, 0x800, 0xC00), "aarch64": (0x400000, 0x800000, 0xC00000)}
#: Every exception, and those of the standard: x86-64 and aarch64 also tell of denormal operands.
ALL = {"x86_64": 0x3F, "aarch64": 0x9F}.get(platform.machine(), 0)
RAISABLE = {"x86_64": 0x3D, "aarch64": 0x1F}.get(platform.machine(), 0)
INEXACT = {"x86_64": 0x20, "aarch64": 0x10}.get(platform.machine(), 0)
#: Flush to zero, and on x86-64 denormals are zeros.
_FLUSH = {"x86_64": (28, 0x8040), "aarch64": (0, 1 << 24)}
SIZE = 32
available = platform.machine() in _WORDS and platform.libc_ver()[0] == "glibc"
libm = ctypes.PyDLL(None) if available else None


def words(environment):
    """What counts of a fenv_t."""
    return [struct.unpack_from(form, environment, at)[0] for at, form in _WORDS[platform.machine()]]


def environment():
    room = (ctypes.c_ubyte * SIZE)()
    libm.fegetenv(room)
    return room


def state():
    return words(environment())


def flags():
    """The exception flags that are raised."""
    return libm.fetestexcept(ALL)


def flushing():
    """Let this thread flush denormals."""
    room = environment()
    at, bits = _FLUSH[platform.machine()]
    struct.pack_into("<I", room, at, struct.unpack_from("<I", room, at)[0] | bits)
    libm.fesetenv(room)


def trapping():
    """Let invalid operations, divisions by zero, overflow and underflow end this process."""
    assert libm.feenableexcept(RAISABLE & ~INEXACT) >= 0


def rounding(mode):
    return lambda: libm.fesetround(mode)


#: Ways for a caller to be unlike others.
CHANGES = {f"rounding {mode:#x}": rounding(mode) for mode in _MODES.get(platform.machine(), ())}
CHANGES |= {"flushing": flushing, "raised": lambda: libm.feraiseexcept(RAISABLE)}


class Changed:
    """A block in another state; the thread's own comes back after it, also its flags."""

    def __init__(self, change):
        self.change = change

    def __enter__(self):
        self.before = environment()
        self.change()
        self.state = state()

    def __exit__(self, *_):
        libm.fesetenv(self.before)


def denormals_live():
    tiny = np.full(9, 1e-30, np.float32) * np.float32(1e-10)
    return bool((tiny != 0).all() and (tiny * np.float32(1) != 0).all() and (np.full(3, 1e-310) / 2 != 0).all())
