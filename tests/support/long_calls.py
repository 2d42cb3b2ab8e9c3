"""Calls that take a minute or more: inputs of any number of steps in the memory of one.

Each function of `CALLS` returns a call and the arrays that an interrupted call must leave unchanged.
"""

from __future__ import annotations

import numpy as np

from indygru_cpu import IndyGRU, functional
from indygru_cpu._engine import _core
from indygru_cpu._engine.arguments import choose_threads


def random(*shape):
    return np.random.default_rng(shape).standard_normal(shape, np.float32)


def broadcast_steps(n_steps, n_batch, n_inputs):
    """Inputs (T, B, D) in the memory of one step."""
    return np.broadcast_to(random(1, n_batch, n_inputs) * 0.1, (n_steps, n_batch, n_inputs))


def _weights(n_inputs, n_units):
    kernel = np.broadcast_to(np.float32(0.01), (n_inputs, 3 * n_units)).copy()
    return kernel, random(3 * n_units) * 0.3, random(3 * n_units)


def _backward(n_steps, n_batch, n_inputs, n_units, *, recompute, times=1):
    """Backward of a tape of zeros, which a forward pass of the same shape would have taken long to make."""
    weights = [[_weights(n_inputs, n_units)]]
    bound = _core.BoundLayer(weights, 1, 0, False, choose_threads, functional.Tape, has_layer_axis=False)
    gates = None if recompute else np.zeros((1, n_steps * n_batch * 3 * n_units), np.float32)
    y = np.zeros((n_steps, n_batch, n_units), np.float32)
    tape = bound.restore_tape(broadcast_steps(n_steps, n_batch, n_inputs), None, None, None, y, gates, False, None)
    return (lambda: [functional.backward(tape) for _ in range(times)]), ()


def _last(x, *arguments, **options):
    layer = IndyGRU(*arguments, seed=7, **options)
    return (lambda: layer.last(x)), ()


def _in_place_state():
    layer, h = IndyGRU(33, 17, seed=7), random(1, 9, 17)
    return (lambda: layer.last(broadcast_steps(50_000_000, 9, 33), h, h_out=h)), (h,)


def _padding():
    layer = IndyGRU(1, 1, seed=7)
    return (lambda: layer(broadcast_steps(400_000_000, 8, 1), lengths=[1] * 8)), ()


def _many_units():
    weights = _weights(100, 100_000)
    x = broadcast_steps(6000, 33, 100)
    return (lambda: functional.forward(x, None, *weights, return_sequences=False)), weights


def _step():
    weights, h = _weights(2000, 700), random(90_000, 700)
    rows = np.broadcast_to(random(1, 2000), (90_000, 2000))
    return (lambda: [functional.step(rows, h, *weights, out=h) for _ in range(9)]), (h,)


def _push():
    stream = IndyGRU(8000, 700, 3, seed=7).stream(5000)
    rows = np.broadcast_to(random(1, 8000), (5000, 8000))
    return (lambda: [stream.push(rows) for _ in range(9)]), (stream._states,)


def _push_many():
    stream = IndyGRU(200, 300, 2, seed=7).stream(9)
    return (lambda: stream.push_many(broadcast_steps(1_000_000, 9, 200))), (stream._states,)


CALLS = {
    "long and narrow": lambda: _last(broadcast_steps(2_000_000_000, 1, 1), 1, 1),
    "in-place state": _in_place_state,
    "through BLAS": lambda: _last(broadcast_steps(200_000, 33, 2000), 2000, 700),
    "stack": lambda: _last(broadcast_steps(50_000_000, 9, 33), 33, 65, 3),
    "both directions": lambda: _last(broadcast_steps(50_000_000, 9, 33), 33, 17, bidirectional=True),
    "padding": _padding,
    "many rows of one step": lambda: _last(np.broadcast_to(random(1, 1, 800), (1, 200_000, 800)), 800, 700),
    "many units": _many_units,
    "functional.step": _step,
    "push": _push,
    "push_many": _push_many,
    "backward": lambda: _backward(100_000, 8, 2000, 300, recompute=False),
    "backward, long and narrow": lambda: _backward(300_000_000, 1, 1, 1, recompute=False),
    "backward, wide": lambda: _backward(300, 64, 2500, 20_000, recompute=True),
    "backward of many rows": lambda: _backward(1, 100_000, 1000, 300, recompute=True, times=36),
    "recompute": lambda: _backward(100_000, 8, 2000, 300, recompute=True),
}
#: GiB of address space, most of it never touched, of calls that reserve more than one.
RESERVED = {"padding": 12, "backward": 10, "backward, long and narrow": 6, "backward, wide": 4, "recompute": 8}
NO_ADDRESS_SPACE = "this process may not reserve the address space"
