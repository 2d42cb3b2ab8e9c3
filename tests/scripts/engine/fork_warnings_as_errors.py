"""In a fork where warnings are errors the first call of a kind fails and changes nothing; the next one succeeds.

A call with num_threads=1 does not warn.
"""

from __future__ import annotations

from threading import Lock

import numpy as np
from forked_results import with_warnings
from forks import in_child
from parallel_layer import all_results, layer
from parallel_layer import x as time_major_x

from indygru_cpu import IndyGRU
from indygru_cpu._engine import threads as thread_counts


def raises_warning(call):
    thread_counts._fork_warning = Lock()
    try:
        call()
    except RuntimeWarning:
        return True
    return False


def stack_results(stack):
    stack(x, h, h_out=h, out=out)
    return [array.tobytes() for array in (h, out, *stack.forward(x, h)[:2])]


def new_stack():
    return IndyGRU(9, 140, 2, dropout=0.5, seed=5, num_threads=2)


def failed_calls_change_nothing():
    for call in (lambda: stack(x, h, h_out=h, out=out), lambda: stack.forward(x, h)):
        assert raises_warning(call)
    assert all((array == 3).all() for array in (h, out))
    thread_counts._fork_warning = Lock()
    stream.push(x_t)
    stream.state = stream.state
    assert raises_warning(lambda: wide_stream.push(wide_x_t))
    assert not wide_stream.state.any()
    wide_stream.push(wide_x_t)
    return stack_results(stack) == expected


x = time_major_x[:, :, :9]
all_results()
h, out = np.full((2, 33, 140), 3, np.float32), np.full((40, 33, 140), 3, np.float32)
stack = new_stack()
assert stack._rng.bit_generator.state == new_stack()._rng.bit_generator.state
expected = stack_results(stack)
stack, h[...], out[...] = new_stack(), 3, 3
x_t, stream = x[0, :1], layer.stream()
wide_x_t = np.full((33, 400), 0.25, np.float32)
wide_stream = IndyGRU(400, 300, seed=5).stream(33, num_threads=2)
assert in_child(lambda: with_warnings(lambda: all_results(num_threads=1)) == (all_results(1), []))
print(in_child(failed_calls_change_nothing))
