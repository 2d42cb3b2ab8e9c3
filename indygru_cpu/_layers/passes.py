"""A layer's passes over its checked arguments: inference, forward with a tape, and backward."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from indygru_cpu._engine import checks as check
from indygru_cpu._engine import memory
from indygru_cpu._layers.layouts import Form, Start
from indygru_cpu._layers.parameters import Parameters
from indygru_cpu._layers.progress import SILENCE, Progress
from indygru_cpu._layers.stack import Stack, Tape, backward, forward, infer
from indygru_cpu._layers.weighted import Weighted
from indygru_cpu._typing import Array


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

    _rng: np.random.Generator | None
    _stack: Stack

    def _finish(self, parameters: Parameters, rng: np.random.Generator, num_threads: int | None) -> None:
        self._parameters = parameters
        # The caller's own generator keeps its state. Only dropout draws after the constructor.
        self._rng = _spawned(rng) if self.dropout else None
        self._stack = Stack.of(self, parameters.storage, check.num_threads(num_threads))

    @property
    def num_threads(self) -> int | None:
        """Threads of a call that names no number. None: each call chooses by measured costs."""
        return self._stack.num_threads

    @num_threads.setter
    def num_threads(self, value: int | None) -> None:
        self._stack = self._stack.with_threads(check.num_threads(value))

    def __getstate__(self) -> dict[str, Any]:
        """Everything except the stack, which follows from the rest. A generator becomes its plain state.

        Only the same major version of NumPy can load a pickled generator.
        """
        state = self.__dict__ | {
            "num_threads": self.num_threads,
            "_rng": None if self._rng is None else _plain(self._rng),
        }
        del state["_stack"]
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        state = dict(state)
        num_threads, rng, parameters = (state.pop(name) for name in ("num_threads", "_rng", "_parameters"))
        self.__dict__.update(state)
        # In another process's message the arrays may lie anywhere.
        self._parameters = parameters.required("A")
        self._rng = None if rng is None else _generator(rng)
        self._stack = Stack.of(self, self._parameters.storage, num_threads)

    def _infer(
        self, start: Start, out: Array | None, h_out: Array | None, wants_y: bool, num_threads: int | None,
        progress: Any,
    ) -> tuple[Any, Array]:  # fmt: skip
        form, stack = start.form, self._stack.with_threads(check.num_threads(num_threads), self.num_threads)
        y = None if out is None else start.room("out", out, start.y_shape, {"h0": start.h0})
        kept = None if h_out is None else start.room_for_state(h_out, out)
        news = _news(progress, start)  # the last check: it changes a bar's total
        if y is None and wants_y:
            y = memory.new(start.y_shape, self.dtype)
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
        form, stack = start.form, self._stack.with_threads(check.num_threads(num_threads), self.num_threads)
        news = _news(progress, start)
        y, h_n = memory.new(start.y_shape, self.dtype), np.empty(start.h_shape, self.dtype)
        # A copy, because the tape keeps it: programs overwrite h0 before `backward`, as in truncated backpropagation.
        h0 = start.first_state()
        tape = forward(
            stack, start.x, form.state_inward(h0), form.state_inward(h_n), form.inward(y),
            start.sequences, news, recompute=recompute, dropout=self.dropout, rng=self._rng,
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
        by_name = dict(zip(self._parameters, flat, strict=True))
        return Gradients(form.outward(found.x), form.state_outward(found.h0), by_name)


def _plain(rng: np.random.Generator) -> Any:
    """Return the state of a generator in Python's own types; a generator of another library as it is."""
    if getattr(np.random, type(rng.bit_generator).__name__, None) is not type(rng.bit_generator):
        return rng

    def of(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: of(part) for name, part in value.items()}
        return value.tolist() if isinstance(value, (np.ndarray, np.generic)) else value

    return of(dict(rng.bit_generator.state))


def _generator(state: Any) -> np.random.Generator:
    """Return the generator of which `_plain` was made."""
    if isinstance(state, np.random.Generator):
        return state
    bits = getattr(np.random, state["bit_generator"])()
    bits.state = state
    return np.random.Generator(bits)


def _spawned(rng: np.random.Generator) -> np.random.Generator:
    try:
        return rng.spawn(1)[0]
    except TypeError:
        raise TypeError(
            "seed: expected a generator that can spawn another one, which dropout draws from, got one with "
            f"{type(rng.bit_generator).__name__} and no SeedSequence: make it by numpy.random.default_rng"
        ) from None
