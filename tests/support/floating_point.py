"""The floating-point state of the calling thread, by C's own functions, for glibc on x86-64 and aarch64."""

from __future__ import annotations

import ctypes
import platform
import struct

import numpy as np

#: Offsets and formats of the control and status words in fenv_t, also of the vector unit. Other fields of x87, such as
#: the address of its last instruction, do not affect results.
_WORDS = {"x86_64": [(0, "<H"), (4, "<H"), (28, "<I")], "aarch64": [(0, "<I"), (4, "<I")]}
_MODES = {"x86_64": (0x400, 0x800, 0xC00), "aarch64": (0x400000, 0x800000, 0xC00000)}
#: Every exception, and the exceptions of the standard: x86-64 and aarch64 also have one for denormal operands.
ALL = {"x86_64": 0x3F, "aarch64": 0x9F}.get(platform.machine(), 0)
RAISABLE = {"x86_64": 0x3D, "aarch64": 0x1F}.get(platform.machine(), 0)
INEXACT = {"x86_64": 0x20, "aarch64": 0x10}.get(platform.machine(), 0)
#: Offset and bits of flush-to-zero, and on x86-64 of denormals-are-zeros.
_FLUSH = {"x86_64": (28, 0x8040), "aarch64": (0, 1 << 24)}
SIZE = 32
available = platform.machine() in _WORDS and platform.libc_ver()[0] == "glibc"
libm = ctypes.PyDLL(None) if available else None


def words(environment):
    """The control and status words of a fenv_t."""
    return [struct.unpack_from(code, environment, offset)[0] for offset, code in _WORDS[platform.machine()]]


def environment():
    buffer = (ctypes.c_ubyte * SIZE)()
    libm.fegetenv(buffer)
    return buffer


def state():
    return words(environment())


def flags():
    """The exception flags that are set."""
    return libm.fetestexcept(ALL)


def enable_flushing():
    """Make this thread flush denormals to zero."""
    buffer = environment()
    offset, bits = _FLUSH[platform.machine()]
    struct.pack_into("<I", buffer, offset, struct.unpack_from("<I", buffer, offset)[0] | bits)
    libm.fesetenv(buffer)


def enable_traps():
    """Make invalid operations, divisions by zero, overflow and underflow end this process."""
    assert libm.feenableexcept(RAISABLE & ~INEXACT) >= 0


def set_rounding(mode):
    return lambda: libm.fesetround(mode)


#: Functions that change the calling thread's state.
CHANGES = {f"rounding {mode:#x}": set_rounding(mode) for mode in _MODES.get(platform.machine(), ())}
CHANGES |= {"flushing": enable_flushing, "raised": lambda: libm.feraiseexcept(RAISABLE)}


class Changed:
    """A block in which the thread's state is changed; the state, with its flags, is restored after it."""

    def __init__(self, change):
        self.change = change

    def __enter__(self):
        self.before = environment()
        self.change()
        self.state = state()

    def __exit__(self, *_):
        libm.fesetenv(self.before)


def denormals_are_numbers():
    tiny = np.full(9, 1e-30, np.float32) * np.float32(1e-10)
    return bool((tiny != 0).all() and (tiny * np.float32(1) != 0).all() and (np.full(3, 1e-310) / 2 != 0).all())
