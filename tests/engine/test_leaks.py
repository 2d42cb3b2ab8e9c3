"""Calls keep no reference to their arguments and no memory, also calls that fail."""

from __future__ import annotations

import ctypes
import gc
import sys

import helpers
import numpy as np
import pytest
import streams

from indygru_cpu import functional
from indygru_cpu._engine import _core

CALLS = 40
SHAPE = (33, 17, 9, 130)


class Stop(Exception):
    pass


def stop(steps):
    raise Stop


def run_forward_only(case, **options):
    functional.forward(*case.arguments, **case.options, **options)


def run_stopped(case):
    with pytest.raises(Stop):
        run_forward_only(case, progress=stop)


def run_refused(case):
    with pytest.raises(ValueError, match="x: expected shape"):
        functional.forward(case.x, case.h0, case.kernel[1:], case.recurrent_kernel, case.bias)
    _, _, tape = functional.forward(*case.arguments, tape=True)
    with pytest.raises(ValueError, match="dy"):
        functional.backward(tape, case.dy[1:])


def stream_for_case(case):
    layer = streams.sized_layer(SHAPE[2], SHAPE[3], dtype=case.x.dtype, num_layers=2)
    return streams.started_stream(layer, SHAPE[1])


def run_stream(case):
    stream = stream_for_case(case)
    for x_t in case.x:
        stream.push(x_t)
    stream.push_many(case.x)


def run_refused_pushes(case):
    stream = stream_for_case(case)
    for wrong in (case.x[0, :, 1:], case.x[0].astype(np.complex64), "x"):
        with pytest.raises((TypeError, ValueError)):
            stream.push(wrong)
    with pytest.raises(RuntimeError, match="initialised"):
        _core.StreamBase.__init__(stream, stream._bound, 1, 1)


RUNS = {
    "forward": run_forward_only,
    "forward on several threads": lambda case: run_forward_only(case, num_threads=3),
    "backward": lambda case: case.run(num_threads=2),
    "backward without a tape": lambda case: case.run(recompute=True),
    "step": lambda case: functional.step(case.x[0], case.h0, *case.arguments[2:]),
    "stopped": run_stopped,
    "refused": run_refused,
    "stream": run_stream,
    "stream that refuses": run_refused_pushes,
}


class MallocInfo(ctypes.Structure):
    """The result of mallinfo2, since glibc 2.33."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in (
            *("arena", "ordblks", "smblks", "hblks", "hblkhd"),
            *("usmblks", "fsmblks", "uordblks", "fordblks", "keepcost"),
        )
    ]


def bytes_in_use():
    """Bytes of the main arena, from which the calling thread allocates, and of separately mapped blocks."""
    mallinfo2 = ctypes.CDLL(None).mallinfo2
    mallinfo2.restype = MallocInfo
    gc.collect()
    blocks = mallinfo2()
    return blocks.uordblks + blocks.hblkhd


def has_mallinfo2():
    return sys.platform.startswith("linux") and hasattr(ctypes.CDLL(None), "mallinfo2")


@pytest.fixture
def case(dtype):
    return helpers.random_case(SHAPE, dtype, "softsign", ragged=True)


@pytest.mark.parametrize("run", RUNS.values(), ids=RUNS)
def test_call_keeps_no_reference_to_its_arguments(case, run):
    arrays = [*case.arrays.values(), case.lengths]
    run(case)
    before = [sys.getrefcount(array) for array in arrays]
    for _ in range(3):
        run(case)
    gc.collect()
    assert [sys.getrefcount(array) for array in arrays] == before


@pytest.mark.skipif(not has_mallinfo2(), reason="needs mallinfo2 of glibc")
@pytest.mark.parametrize("run", RUNS.values(), ids=RUNS)
def test_call_keeps_no_memory(case, run):
    """The scratch of a call is 40 KB and more.

    A thread's first work allocates memory once, so calls are repeated until some allocate nothing.
    """

    def growth():
        before = bytes_in_use()
        for _ in range(CALLS):
            run(case)
        return bytes_in_use() - before

    assert any(growth() < CALLS * 1000 for _ in range(30))
