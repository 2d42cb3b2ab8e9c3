"""Work of the layer: each function prepares one kind for a case and returns the function that is timed.

Results go into copies of other arrays: the system provides new memory at the first write, and page faults are not to be
timed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from typing import Any

import numpy as np
from cases import Array, Case

from indygru_cpu import IndyGRU
from indygru_cpu.layer import Gradients


def make_layer(case: Case) -> IndyGRU:
    """A layer with the weights of the case."""
    layer = IndyGRU(*case.shape[2:], dtype=case.dtype, num_threads=case.threads)
    layer.parameters.update(dict(zip(layer.parameters, case.weights, strict=True)))
    return layer


def train(
    layer: IndyGRU, x: Array, dy: Array, h0: Array | None = None, /, *, recompute: bool = False, **requested: bool
) -> tuple[Array, Array, Gradients]:
    """One training step: y and h_n of forward, and backward of a gradient of y."""
    y, h_n, tape = layer.forward(x, h0, recompute=recompute)
    return y, h_n, layer.backward(tape, dy, **requested)


def forward(case: Case) -> Callable[[], Any]:
    return partial(make_layer(case), case.x, case.h0[None], out=case.dy.copy())


@cache
def _forward_in_place(case: Case) -> Callable[..., Any]:
    """One layer and one set of arrays for all numbers of threads, so that ratios depend on the threads alone."""
    return forward(replace(case, threads=None))


def forward_by_default(case: Case) -> Callable[[], Any]:
    """A call without `num_threads`: the library chooses the number."""
    return _forward_in_place(case)


def forward_on_one_thread(case: Case) -> Callable[[], Any]:
    return partial(_forward_in_place(case), num_threads=1)


def forward_on_all_threads(case: Case) -> Callable[[], Any]:
    return partial(_forward_in_place(case), num_threads=case.threads)


def grouped(case: Case, groups: int = 32) -> Callable[[], Any]:
    layer = IndyGRU(*case.shape[2:], dtype=case.dtype, groups=groups, seed=0, num_threads=case.threads)
    return partial(layer, case.x, case.h0[None], out=case.dy.copy())


def uneven(case: Case) -> Callable[[], Any]:
    """One row of T steps and rows of one step, without padding."""
    n_steps, n_batch, n_inputs, n_units = case.shape
    offsets = np.concatenate([[0], n_steps + np.arange(n_batch)])
    values, out = (a.reshape(-1, width)[: offsets[-1]] for a, width in ((case.x, n_inputs), (case.dy.copy(), n_units)))
    return partial(make_layer(case).ragged, values, offsets, case.h0[None], out=out)


def training(case: Case, recompute: bool = False) -> Callable[[], Any]:
    return partial(train, make_layer(case), case.x, case.dy, case.h0[None], recompute=recompute)


training_with_recompute = partial(training, recompute=True)


def recurrence(case: Case) -> Callable[[], Any]:
    """One input makes the projection one multiply-add a gate, and `last` stores no states: all data fits the cache."""
    return partial(make_layer(case).last, case.x, case.h0[None])


def silence(case: Case) -> Callable[[], Any]:
    """Zero inputs and zero biases: the state decays below the smallest normal number."""
    layer = make_layer(case)
    layer.parameters["bias_l0"][...] = 0
    return partial(layer, np.zeros_like(case.x), case.h0[None], out=case.dy.copy())


def step(case: Case) -> Callable[[], Any]:
    x_t = case.x[0, 0] if case.shape[1] == 1 else case.x[0]
    return partial(make_layer(case).stream(batch_size=case.shape[1]).push, x_t)


def bfloat16_step(case: Case) -> Callable[[], Any]:
    return partial(make_layer(case).stream(batch_size=case.shape[1], weights="bfloat16").push, case.x[0])


def int8_step(case: Case) -> Callable[[], Any]:
    return partial(make_layer(case).stream(batch_size=case.shape[1], weights="int8").push, case.x[0])


def step_of_some_rows(case: Case) -> Callable[[], Any]:
    """A step of the rows of the case, which are every 32nd row of a stream."""
    n_rows = case.shape[1]
    stream = make_layer(case).stream(batch_size=32 * n_rows)
    return partial(stream.push, case.x[0], list(range(0, 32 * n_rows, 32)))


def streamed(case: Case) -> Callable[[], Any]:
    """All steps in chunks that share their memory, as a live source reuses its buffer."""
    chunk, lengths = case.chunked()
    layer, x, y, h = make_layer(case), chunk.x, chunk.dy.copy(), case.h0[None].copy()

    def work() -> None:
        for n in lengths:
            layer(x[:n], h, out=y[:n], h_out=h)

    return work
