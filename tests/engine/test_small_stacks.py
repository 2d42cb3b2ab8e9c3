"""Threads with small stacks: a call's scratch does not lie there."""

from __future__ import annotations

import sys

import pytest

needs_threads_of_any_size = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="sizes of Linux's stacks")

CALLS = """
import sys, threading
import numpy as np
from indygru_cpu import IndyGRU, functional

N_INPUTS, N_UNITS = 300, 130  # more than a run of inputs, and columns at the edge of every panel
rng = np.random.default_rng(0)


def arrays(dtype):
    shapes = [(13, N_INPUTS), (13, N_UNITS), (N_INPUTS, 3 * N_UNITS), (3 * N_UNITS,), (3 * N_UNITS,)]
    return [rng.uniform(-0.1, 0.1, shape).astype(dtype) for shape in shapes]


def results(dtype, num_threads):
    x, h, *weights = arrays(dtype)
    layer = IndyGRU(N_INPUTS, N_UNITS, seed=0, dtype=dtype)
    sequence = rng.uniform(-1, 1, (40, 13, N_INPUTS)).astype(dtype)
    y, h_n, tape = layer.forward(sequence, num_threads=num_threads, recompute=True)
    gradients = layer.backward(tape, y)
    return functional.step(x, h, *weights), layer.stream(13).push(x), y, h_n, gradients.x, gradients.h0


def all_results(num_threads):
    global rng
    rng = np.random.default_rng(0)
    return [array.tobytes() for dtype in (np.float32, np.float64) for array in results(dtype, num_threads)]


expected = all_results(1)
"""


@needs_threads_of_any_size
@pytest.mark.parametrize("kilobytes", [64, 96])
def test_call_in_a_thread_with_a_small_stack_gives_the_same_bits(run_python, kilobytes):
    code = f"""
    found = []
    threading.stack_size({kilobytes} * 1024)
    thread = threading.Thread(target=lambda: found.append(all_results(1)))
    thread.start()
    thread.join()
    print(found == [expected])
    """
    assert run_python(CALLS + "\n".join(line[4:] for line in code.splitlines())) == "True"


@needs_threads_of_any_size
@pytest.mark.parametrize("kilobytes", [20, 24, 32])
def test_helpers_with_small_stacks_give_the_same_bits(run_python, kilobytes):
    code = CALLS + "print(all_results(3) == expected)"
    assert run_python(code, OMP_STACKSIZE=f"{kilobytes}k", OPENBLAS_NUM_THREADS="1") == "True"
