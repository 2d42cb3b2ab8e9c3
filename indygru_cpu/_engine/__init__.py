"""Calls of the compiled core with checked arguments: forward, with or without a tape, one step, and backward."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from indygru_cpu._engine.environment import short_openmp_spin

with short_openmp_spin():  # libgomp reads its environment once, when it is loaded together with _core
    import indygru_cpu._engine._core
import indygru_cpu._engine.blas  # noqa: F401  (opens BLAS for _core)
from indygru_cpu._engine import _core, memory
from indygru_cpu._engine.arguments import BoundArguments, Weights
from indygru_cpu._engine.threads import Threads
from indygru_cpu._typing import Array, Gradients, ProgressCallback

_FUSED_NAMES = {np.dtype(np.float32): "float", np.dtype(np.float64): "double"}
_FORWARD, _BACKWARD, _STEP = (
    {dtype: function[name] for dtype, name in _FUSED_NAMES.items()}
    for function in (_core.forward, _core.backward, _core.step)
)
#: The largest batch for which `_core.step`, which reads unpacked weights, is as fast as `_core.forward`, which packs.
_MAX_STEP_ROWS = 32


@dataclass(eq=False)
class Tape:
    """The data that `backward` needs from a call of `forward`. It refers to the arrays of that call, without copies.

    Do not change these arrays before `backward`.

    Attributes
    ----------
    call : BoundArguments
        The arguments of the call.
    y : array, (T, B, N) or (S, N)
        All states.
    gates : array or None
        r, z and candidate of every valid step, in the kernels' block order; None with ``recompute=True``.
    """

    call: BoundArguments
    y: Array
    gates: Array | None


def step(x: Array, h: Array, weights: Weights, groups: int, activation: int) -> None:
    """Run one step on the calling thread.

    Parameters
    ----------
    x : array, (1, B, D)
        Inputs.
    h : array, (B, N)
        The state before the step; overwritten with the state after it.
    weights, groups, activation
        As in `BoundArguments`.
    """
    _STEP[h.dtype](x, h, *weights, groups, activation)


def forward(
    call: BoundArguments, h: Array, y: Array | None, threads: Threads, progress: ProgressCallback | None = None,
    gates: Array | None = None, use_step: bool = True,
) -> None:  # fmt: skip
    """Run one layer in one direction over whole sequences.

    Parameters
    ----------
    call : BoundArguments
        The arguments. Its `h0` is not read.
    h : array, (B, N)
        The state before the first step; overwritten with the state after each row's last valid step.
    y : array shaped like ``call.y_shape``, or None
        Output: all states. None stores none.
    threads : Threads
        Threads of the call.
    progress : callable, optional
        Called with the number of steps done.
    gates : array, (3 N * valid steps,), optional
        Output: the gates for `backward`. None stores none.
    use_step : bool
        Whether a single step of a small batch on one thread runs through `step`. Training does not use it: its results
        have the same bits with and without stored gates.
    """
    sequences, x = call.sequences, call.x
    if use_step and threads.number == 1 and sequences.is_single_step and sequences.n_batch <= _MAX_STEP_ROWS:
        step(x, h, call.weights, call.groups, call.activation)
        if y is not None:
            y[0] = h
        if progress is not None:
            progress(1)
        return
    is_ragged = sequences.is_ragged
    if is_ragged or sequences.reverse:
        x = sequences.as_time_major(x)
        if y is not None:
            sequences.clear_unused(y)
            y = sequences.as_time_major(y)
    has_padding = sequences.lengths is not None and not is_ragged
    _FORWARD[h.dtype](
        sequences.n_steps, x, h, *call.weights, y, gates, sequences.lengths, sequences.row_offsets,
        has_padding, call.groups, call.activation, *threads, call.reproducible, progress,
    )  # fmt: skip


def train(
    call: BoundArguments, h: Array, y: Array, threads: Threads, recompute: bool,
    progress: ProgressCallback | None = None, gates: Array | None = None,
) -> Tape:  # fmt: skip
    """Run `forward` and return a tape. The gates go to `gates` if that is not None, and to a new array otherwise.

    With `recompute` no gates are stored.
    """
    size = 3 * h.shape[1] * call.sequences.n_valid_steps
    gates = None if recompute else memory.new((size,), y.dtype) if gates is None else gates[:size]
    forward(call, h, y, threads, progress, gates, use_step=False)
    return Tape(call, y, gates)


def backward(tape: Tape, dy: Array | None, dh: Array, threads: Threads) -> Gradients:
    """Gradients of one layer in one direction.

    Parameters
    ----------
    tape : Tape
        From `train`.
    dy : array shaped like y, or None
        Gradient with respect to y; None is zeros.
    dh : array, (B, N)
        Gradient with respect to the last state; overwritten with the gradient with respect to the first.
    threads : Threads
        Threads of the call.
    """
    call, sequences, dtype = tape.call, tape.call.sequences, tape.y.dtype
    n_units = call.h0.shape[1]
    has_unwritten = sequences.lengths is not None or n_units == 0  # elements of dx that the kernels do not write
    dx = sequences.empty_like_input(call.x.shape[-1], call.x, zeroed=has_unwritten)
    dweights = [memory.new(weight.shape, dtype, zeroed=True) for weight in call.weights]
    x, y, time_major_dx = call.x, tape.y, dx
    if sequences.is_ragged or sequences.reverse:
        x, y, time_major_dx = map(sequences.as_time_major, (x, y, dx))
        dy = None if dy is None else sequences.as_time_major(dy)
    _BACKWARD[dtype](
        sequences.n_steps, x, call.h0, *call.weights, y, tape.gates, sequences.lengths, sequences.row_offsets,
        call.groups, call.activation, *threads, call.reproducible,
        sequences.broadcast_zeros(n_units, dtype) if dy is None else dy, dh, time_major_dx, *dweights,
    )  # fmt: skip
    return Gradients(dx, dh, *dweights)
