"""Helpers ask the system for short time slices; the caller's slice, and all policies and nice values, stay.

Does nothing where the system has no time slices of threads.
"""

from __future__ import annotations

import ctypes
import os
import platform
import struct
import threading

from affinity_masks import helper_ids, layer, x

_RECORD = "IIQiIQQQ"
_SIZE = struct.calcsize(_RECORD)
#: Numbers of sched_setattr and sched_getattr.
_CALLS = {"x86_64": (314, 315), "aarch64": (274, 275)}.get(platform.machine())
_libc = ctypes.CDLL(None, use_errno=True)


def attributes(thread):
    """Policy, nice value and time slice in nanoseconds."""
    record = ctypes.create_string_buffer(_SIZE)
    if not _CALLS or _libc.syscall(_CALLS[1], thread, record, _SIZE, 0):
        return None
    _, policy, _, nice, _, runtime, _, _ = struct.unpack(_RECORD, record.raw)
    return policy, nice, runtime


def system_has_slices():
    """Whether a slice that a new thread asks for is in effect."""
    results = []

    def ask():
        record = ctypes.create_string_buffer(struct.pack(_RECORD, _SIZE, 0, 0, 0, 0, 700_000, 0, 0), _SIZE)
        _libc.syscall(_CALLS[0], 0, record, 0)
        results.append(attributes(0)[2] == 700_000)

    thread = threading.Thread(target=ask)
    thread.start()
    thread.join()
    return results[0]


before = attributes(0)
os.nice(3)
layer(x, num_threads=3)
of_helpers = [attributes(thread) for thread in helper_ids()]
if before is not None and system_has_slices():
    policy, nice, runtime = before
    assert attributes(0) == (policy, nice + 3, runtime), attributes(0)
    assert of_helpers == [(policy, nice + 3, 100_000)] * 2, of_helpers
print("done")
