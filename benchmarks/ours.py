"""The layer's kinds of work: each function prepares one for a case, and returns what is timed.

Results go into arrays that are copies of others, not new: the system gives memory when it is first written to, and
that is nobody's work here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from typing import Any

import numpy as np
from cases import Case

from indygru_cpu import IndyGRU


def layer_of(case: Case) -> IndyGRU:
    """The layer with the case's weights."""
    layer = IndyGRU(*case.shape[2:], dtype=case.dtype, num_threads=case.threads)
    layer.parameters.update(dict(zip(layer.parameters, case.weights, strict=True)))
    return layer


def forward(case: Case) -> Callable[[], Any]:
    return partial(layer_of(case), case.x, case.h0[None], out=case.dy.copy())


@cache
def _forward_in_place(case: Case) -> Callable[..., Any]:
    """One layer and one set of arrays for every number of threads, so that ratios show the threads alone."""
    return forward(replace(case, threads=None))


def forward_by_default(case: Case) -> Callable[[], Any]:
    """The call names no number of threads: the library chooses one."""
    return _forward_in_place(case)


def forward_on_one_thread(case: Case) -> Callable[[], Any]:
    return partial(_forward_in_place(case), num_threads=1)


def forward_on_all_threads(case: Case) -> Callable[[], Any]:
    return partial(_forward_in_place(case), num_threads=case.threads)


def grouped(case: Case, groups: int = 32) -> Callable[[], Any]:
    layer = IndyGRU(*case.shape[2:], dtype=case.dtype, groups=groups, seed=0, num_threads=case.threads)
    return partial(layer, case.x, case.h0[None], out=case.dy.copy())


def uneven(case: Case) -> Callable[[], Any]:
    """One row of T steps, the others of one step, and no padding."""
    n_steps, n_batch, n_inputs, n_units = case.shape
    offsets = np.concatenate([[0], n_steps + np.arange(n_batch)])
    values, out = (a.reshape(-1, width)[: offsets[-1]] for a, width in ((case.x, n_inputs), (case.dy.copy(), n_units)))
    return partial(layer_of(case).ragged, values, offsets, case.h0[None], out=out)


def training(case: Case, recompute: bool = False) -> Callable[[], Any]:
    layer, x, h0, dy = layer_of(case), case.x, case.h0[None], case.dy

    def work() -> Any:
        y, h_n, tape = layer.forward(x, h0, recompute=recompute)
        return y, h_n, layer.backward(tape, dy)

    return work


training_with_recompute = partial(training, recompute=True)


def recurrence(case: Case) -> Callable[[], Any]:
    """With one input the projection is a multiply-add a gate, and `last` stores no states: all stays in cache."""
    return partial(layer_of(case).last, case.x, case.h0[None])


def silence(case: Case) -> Callable[[], Any]:
    """No input and no bias, so that the state decays from where it starts to below the smallest normal number."""
    layer = layer_of(case)
    layer.parameters["bias_l0"][...] = 0
    return partial(layer, np.zeros_like(case.x), case.h0[None], out=case.dy.copy())


def step(case: Case) -> Callable[[], Any]:
    x_t = case.x[0, 0] if case.shape[1] == 1 else case.x[0]
    return partial(layer_of(case).stream(batch_size=case.shape[1]).push, x_t)


def streamed(case: Case) -> Callable[[], Any]:
    """All steps in chunks; every chunk is the same memory, as a live source would reuse it."""
    chunk, lengths = case.chunked()
    layer, x, y, h = layer_of(case), chunk.x, chunk.dy.copy(), case.h0[None].copy()

    def work() -> None:
        for n in lengths:
            layer(x[:n], h, out=y[:n], h_out=h)

    return work
