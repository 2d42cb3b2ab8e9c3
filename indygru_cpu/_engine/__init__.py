"""Calls into `_core` with arguments that are checked: forward, with a tape or without, and backward."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from indygru_cpu._engine.environment import short_waits

with short_waits():  # libgomp reads its environment once, when it is loaded with _core
    import indygru_cpu._engine._core
import indygru_cpu._engine.blas  # noqa: F401  (opens BLAS for _core)
from indygru_cpu._engine import _core, memory
from indygru_cpu._engine.arguments import Call, Weights
from indygru_cpu._engine.threads import Threads
from indygru_cpu._typing import Array

News = Callable[[int], object] | None

_FUSED = {np.dtype(np.float32): "float", np.dtype(np.float64): "double"}
_FORWARD, _BACKWARD, _STEP = (
    {dtype: function[name] for dtype, name in _FUSED.items()}
    for function in (_core.forward, _core.backward, _core.step)
)
#: Rows up to which one step is as fast with the weights as they lie as with packed ones.
_MOST_STEP_ROWS = 32


class Gradients(NamedTuple):
    """Gradients of a scalar, each shaped like the argument of `forward` that it is named after."""

    x: Array
    h0: Array
    kernel: Array
    recurrent_kernel: Array
    bias: Array


@dataclass(eq=False)
class Tape:
    """What `backward` needs of a call of `forward`. It refers to that call's arrays: leave them as they are until then.

    Attributes
    ----------
    call : Call
        The arguments of the call.
    y : array, (T, B, N) or (S, N)
        All states.
    gates : array or None
        r, z and candidate of every valid step, in blocks as the kernels store them; None with ``recompute=True``.
    """

    call: Call
    y: Array
    gates: Array | None


def step(x: Array, h: Array, weights: Weights, groups: int, activation: int) -> None:
    """X (1, B, D) IN, h (B, N) IN/OUT: one step, on this thread."""
    _STEP[h.dtype](x, h, *weights, groups, activation)


def infer(call: Call, h: Array, y: Array | None, threads: Threads, news: News = None) -> None:
    """H (B, N) IN/OUT; y OUT, or None if it is unwanted."""
    if threads.number == 1 and call.sequences.is_one_step and call.sequences.n_batch <= _MOST_STEP_ROWS:
        step(call.x, h, call.weights, call.groups, call.activation)
        if y is not None:
            y[0] = h
        if news is not None:
            news(1)
    else:
        _forward(call, h, y, None, threads, news)


def train(
    call: Call, h: Array, y: Array, threads: Threads, recompute: bool, news: News = None, room: Array | None = None
) -> Tape:
    """H (B, N) IN/OUT; y OUT; the gates go into `room`, if there is one, of at least 3 N numbers a valid step."""
    size = 3 * h.shape[1] * call.sequences.n_lines
    gates = None if recompute else memory.new((size,), y.dtype) if room is None else room[:size]
    _forward(call, h, y, gates, threads, news)
    return Tape(call, y, gates)


def _forward(call: Call, h: Array, y: Array | None, gates: Array | None, threads: Threads, news: News) -> None:
    sequences, x = call.sequences, call.x
    is_ragged = sequences.is_ragged
    if is_ragged or sequences.reverse:
        x = sequences.view(x)
        if y is not None:
            sequences.clear_gaps(y)
            y = sequences.view(y)
    has_padding = sequences.lengths is not None and not is_ragged
    _FORWARD[h.dtype](
        sequences.n_steps, x, h, *call.weights, y, gates, sequences.lengths, sequences.origins,
        has_padding, call.groups, call.activation, *threads, call.reproducible, news,
    )  # fmt: skip


def backward(tape: Tape, dy: Array | None, dh: Array, threads: Threads) -> Gradients:
    """Dy, shaped like y, IN, or None for zeros; dh (B, N) of the last state IN, of the first OUT."""
    call, sequences, dtype = tape.call, tape.call.sequences, tape.y.dtype
    n_units = call.h0.shape[1]
    has_gaps = sequences.lengths is not None or n_units == 0  # the kernels do not write all of dx
    dx = sequences.room(call.x.shape[-1], call.x, zeroed=has_gaps)
    weights = [memory.new(weight.shape, dtype, zeroed=True) for weight in call.weights]
    x, y, seen_dx = call.x, tape.y, dx
    if sequences.is_ragged or sequences.reverse:
        x, y, seen_dx = map(sequences.view, (x, y, dx))
        dy = None if dy is None else sequences.view(dy)
    _BACKWARD[dtype](
        sequences.n_steps, x, call.h0, *call.weights, y, tape.gates, sequences.lengths, sequences.origins, call.groups,
        call.activation, *threads, call.reproducible, sequences.zeros(n_units, dtype) if dy is None else dy, dh,
        seen_dx, *weights,
    )  # fmt: skip
    return Gradients(dx, dh, *weights)
