"""Work of the layer on long sequences, whole and in calls of some steps, with units that forget and units that do not.

A call of `CALL_STEPS` steps is too short for chunks of time: the same sequence in such calls runs in sequence.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from cases import Array, Case

from indygru_cpu import IndyGRU
from ratios.library import make_layer, train

CALL_STEPS = 2048
#: Bias of the update gate, whose value is the share of the old state that is kept.
FORGETTING, RETENTIVE = 0.0, 8.0


def layer_with_bias(case: Case, update_bias: float) -> IndyGRU:
    """A layer with the weights of the case and one bias for all update gates."""
    layer, n_units = make_layer(case), case.shape[3]
    layer.parameters["bias_l0"][n_units : 2 * n_units] = update_bias
    return layer


def parts(array: Array, n: int) -> list[Array]:
    """Divide an array into parts of n steps."""
    return [array[i : i + n] for i in range(0, len(array), n)]


def forward(case: Case, update_bias: float = FORGETTING) -> Callable[[], Any]:
    return partial(layer_with_bias(case, update_bias), case.x, case.h0[None], out=case.dy.copy())


def forward_in_calls(case: Case, update_bias: float = FORGETTING) -> Callable[[], Any]:
    layer, h0, h = layer_with_bias(case, update_bias), case.h0[None], case.h0[None].copy()
    y = case.dy.copy()
    xs, ys = parts(case.x, CALL_STEPS), parts(y, CALL_STEPS)

    def work() -> Array:
        h[...] = h0
        for x_part, y_part in zip(xs, ys, strict=True):
            layer(x_part, h, out=y_part, h_out=h)
        return y

    return work


def training(case: Case, update_bias: float = FORGETTING) -> Callable[[], Any]:
    return partial(train, layer_with_bias(case, update_bias), case.x, case.dy, case.h0[None])


def training_in_calls(case: Case, update_bias: float = FORGETTING) -> Callable[[], Any]:
    """All calls forward, then all calls backward, which pass the gradient of the state on."""
    layer, h0 = layer_with_bias(case, update_bias), case.h0[None]
    xs, dys = parts(case.x, CALL_STEPS), parts(case.dy, CALL_STEPS)

    def work() -> Array | None:
        h, dh, tapes = h0, None, []
        for x in xs:
            _, h, tape = layer.forward(x, h)
            tapes.append(tape)
        for dy in reversed(dys):
            dh = layer.backward(tapes.pop(), dy, dh).h0
        return dh

    return work


forward_retentive = partial(forward, update_bias=RETENTIVE)
forward_retentive_in_calls = partial(forward_in_calls, update_bias=RETENTIVE)
training_retentive = partial(training, update_bias=RETENTIVE)
training_retentive_in_calls = partial(training_in_calls, update_bias=RETENTIVE)
