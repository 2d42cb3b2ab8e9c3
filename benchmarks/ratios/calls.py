"""Work of short calls, of requested gradients and of stacks; each function returns the function that is timed.

Calls of the layer and of `functional` that take no first state allocate their results, unless their names say `out`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from cases import Case

from indygru_cpu import IndyGRU, functional
from ratios.library import make_layer, train


def layer(case: Case) -> Callable[[], Any]:
    return partial(make_layer(case), case.x)


def layer_with_out(case: Case) -> Callable[[], Any]:
    return partial(make_layer(case), case.x, out=case.dy.copy(), h_out=case.h0[None].copy())


def training(case: Case, **requested: bool) -> Callable[[], Any]:
    """`forward` and `backward`, with all gradients unless `requested` says otherwise."""
    return partial(train, make_layer(case), case.x, case.dy, **requested)


training_without_dx = partial(training, x=False)
training_with_frozen_weights = partial(training, parameters=False)


def functional_step_with_out(case: Case) -> Callable[[], Any]:
    return partial(functional.step, case.x[0], case.h0, *case.weights, out=np.empty_like(case.h0))


def functional_forward(case: Case) -> Callable[[], Any]:
    return partial(functional.forward, case.x, None, *case.weights)


def push_many(case: Case) -> Callable[[], Any]:
    return partial(make_layer(case).stream(batch_size=case.shape[1]).push_many, case.x)


def stack(case: Case) -> Callable[[], Any]:
    """Two layers in both directions."""
    layer = IndyGRU(
        *case.shape[2:], num_layers=2, bidirectional=True, dtype=case.dtype, seed=0, num_threads=case.threads
    )
    return partial(layer, case.x)
