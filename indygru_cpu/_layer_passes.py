"""A layer's passes over its checked arguments: inference, forward with a tape, and backward."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from indygru_cpu import _memory
from indygru_cpu import _validation as check
from indygru_cpu._forms import Form, Start
from indygru_cpu._parameters import Parameters
from indygru_cpu._progress import SILENCE, Progress
from indygru_cpu._stack import Stack, Tape, backward, forward, infer, weights_of
from indygru_cpu._weighted import Weighted

Array = np.ndarray[Any, Any]


class Gradients(NamedTuple):
    """Gradients of a scalar: shaped like x, like h0, and like the parameters under their names."""

    x: Array
    h0: Array
    parameters: dict[str, Array]


@dataclass(eq=False)
class LayerTape:
    """What `IndyGRU.backward` needs of a call of `IndyGRU.forward`; it refers to that call's arrays."""

    owner: Passes
    inner: Tape
    form: Form
    y_shape: tuple[int, ...]
    h_shape: tuple[int, ...]
    num_threads: int | None


def _news(progress: Any, start: Start) -> Progress:
    return SILENCE if progress is None else Progress(progress, start.n_steps)


class Passes(Weighted):
    """The part of `IndyGRU` that its public methods share."""

    _rng: np.random.Generator

    def _take(self, parameters: Parameters) -> None:
        self._parameters = parameters
        self._weights = weights_of(parameters.arrays, self.num_layers, self.bidirectional)

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._take(self._parameters.required("A"))  # in another process's message they may lie anywhere

    def _infer(
        self, start: Start, out: Array | None, h_out: Array | None, wants_y: bool, num_threads: int | None,
        progress: Any,
    ) -> tuple[Any, Array]:  # fmt: skip
        form, stack = start.form, Stack.of(self, num_threads)
        news = _news(progress, start)
        y = None if out is None else start.room("out", out, start.y_shape, {"h0": start.h0})
        if y is None and wants_y:
            y = _memory.new(start.y_shape, self.dtype)
        kept = None if h_out is None else start.room_for_state(h_out, out)
        h = start.first_state()  # apart from h_out, which stays as it is if something ends the call
        y_inward = None if y is None else form.inward(y)
        infer(stack, start.x, form.state_inward(h), y_inward, start.sequences, news)
        if kept is None:
            return y, h
        kept[...] = h
        return y, kept

    def _train(
        self, start: Start, recompute: bool, num_threads: int | None, progress: Any
    ) -> tuple[Array, Array, LayerTape]:
        form, stack = start.form, Stack.of(self, num_threads)
        y, h_n = _memory.new(start.y_shape, self.dtype), np.empty(start.h_shape, self.dtype)
        h0 = np.zeros(start.h_shape, self.dtype) if start.h0 is None else start.h0
        tape = forward(
            stack, start.x, form.state_inward(h0), form.state_inward(h_n), form.inward(y),
            start.sequences, _news(progress, start), recompute=recompute, dropout=self.dropout, rng=self._rng,
        )  # fmt: skip
        y.flags.writeable = False
        return y, h_n, LayerTape(self, tape, form, y.shape, h_n.shape, stack.num_threads)

    def _gradients(self, tape: LayerTape, dy: object, dh_n: object) -> Gradients:
        form, like = tape.form, ("the layer", self.dtype)
        if dy is not None:
            dy = form.inward(check.array("dy", dy, tape.y_shape, like))
        if dh_n is not None:
            dh_n = form.state_inward(check.array("dh_n", dh_n, tape.h_shape, like))
        found = backward(tape.inner, dy, dh_n, tape.num_threads)
        flat = [array for layer in found.weights for direction in layer for array in direction[: 2 + self.bias]]
        by_name = dict(zip(self._parameters.arrays, flat, strict=True))
        return Gradients(form.outward(found.x), form.state_outward(found.h0), by_name)
