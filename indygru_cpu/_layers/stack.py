"""Layers on top of each other, in one direction or both: calls of `_engine`, and what lies between them.

Everything here is time-major (T, B, width), or ragged (sum of lengths, width). Directions of a layer write their N
columns of one y side by side; states of all layers and directions are one array (layers * directions, B, N).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from indygru_cpu import _engine
from indygru_cpu._engine import checks as check
from indygru_cpu._engine import memory
from indygru_cpu._engine.arguments import Call, Weights
from indygru_cpu._engine.sequences import Sequences
from indygru_cpu._layers.progress import Progress
from indygru_cpu._layers.weighted import Weighted
from indygru_cpu._typing import Array

#: Bytes of an inner layer's y that are made before the next layer takes them. They stay in L3, and memory bounded; less
#: costs more for packing weights and starting calls than L2 saves (docs/speed.md).
INNER_BYTES = 4 * 1024 * 1024
LEAST_STEPS = 16


def weights_of(layer: Weighted, arrays: dict[str, Array]) -> list[list[Weights]]:
    """The parameters of each layer and direction."""
    suffixes = ("", "_reverse") if layer.bidirectional else ("",)
    return [
        [
            Weights.of(arrays[f"kernel_l{k}{s}"], arrays[f"recurrent_kernel_l{k}{s}"], arrays.get(f"bias_l{k}{s}"))
            for s in suffixes
        ]
        for k in range(layer.num_layers)
    ]


class Stack(NamedTuple):
    """What a stack is: the weights of each layer and direction, and the options that all share."""

    weights: list[list[Weights]]
    groups: int
    activation: int
    reproducible: bool
    num_threads: int | None
    directions: int
    most_threads: int | None = None  # of calls that name no number

    @classmethod
    def of(cls, layer: Weighted, arrays: dict[str, Array], num_threads: int | None) -> Stack:
        """A layer's, with these arrays for its parameters."""
        activation, weights = check.activation_index(layer.activation), weights_of(layer, arrays)
        return cls(weights, layer.groups, activation, layer.reproducible, num_threads, len(weights[0]))

    def with_threads(self, num_threads: int | None, otherwise: int | None = None) -> Stack:
        """The same stack with this number of threads, or with `otherwise` if it is None."""
        num_threads = otherwise if num_threads is None else num_threads
        return self if num_threads == self.num_threads else self._replace(num_threads=num_threads)

    def places(self, layer: int) -> range:
        """Of a layer's states, one for each direction, among those of all: (layers * directions, B, N)."""
        return range(layer * self.directions, (layer + 1) * self.directions)

    def call(self, place: int, x: Array, h: Array, sequences: Sequences) -> Call:
        """The call of the layer and direction whose state is at a place of `h` (layers * directions, B, N)."""
        layer, direction = divmod(place, self.directions)
        rows, weights = sequences.reversed() if direction else sequences, self.weights[layer][direction]
        return Call(x, h[place], weights, rows, self.groups, self.activation, self.reproducible)


def columns(y: Array, direction: int, n_units: int) -> Array:
    """A direction's part of the y of all, or of a gradient of it."""
    return y if y.shape[-1] == n_units else y[..., direction * n_units : (direction + 1) * n_units]


class Tape(NamedTuple):
    """What `backward` needs: each layer's and direction's tape, and what dropout multiplied each inner y with."""

    layers: list[list[_engine.Tape]]
    masks: list[Array]


def infer(stack: Stack, x: Array, h: Array, y: Array | None, sequences: Sequences, progress: Progress) -> None:
    """Inference: h, the states before the first step, IN, and after the last, OUT; y OUT, or None if unwanted."""
    n_inner, steps = len(stack.weights) - 1, max(1, len(x))
    if n_inner == 0:
        _infer_layer(stack, 0, x, h, y, sequences, progress)
        return
    parts = [(slice(None), sequences)]
    if stack.directions == 1 and not sequences.is_ragged:
        steps = min(steps, max(LEAST_STEPS, INNER_BYTES // max(1, h[0].nbytes)))
        parts = [
            (slice(first, first + steps), sequences.part(first, min(steps, len(x) - first)))
            for first in range(0, max(1, len(x)), steps)
        ]
    shape = (steps, *x.shape[1:-1], stack.directions * h.shape[2])
    buffers = [memory.new(shape, x.dtype) for _ in range(min(2, n_inner))]
    for part, rows in parts:
        inputs = x[part]
        for layer in range(n_inner):
            out = buffers[layer % 2][: len(inputs)]
            _infer_layer(stack, layer, inputs, h, out, rows, progress)
            inputs = out
        _infer_layer(stack, n_inner, inputs, h, y if y is None else y[part], rows, progress)


def _infer_layer(
    stack: Stack, layer: int, x: Array, h: Array, out: Array | None, rows: Sequences, progress: Progress
) -> None:
    for i in stack.places(layer):
        call = stack.call(i, x, h, rows)
        y = None if out is None else columns(out, i % stack.directions, h.shape[2])
        threads = call.threads(stack.num_threads, most=stack.most_threads)
        _engine.infer(call, call.h0, y, threads, progress.of_a_call())
        progress.add(rows.n_steps)


def forward(
    stack: Stack, x: Array, h0: Array, h_n: Array, y: Array, sequences: Sequences, progress: Progress, *,
    recompute: bool, dropout: float, rng: np.random.Generator | None,
) -> Tape:  # fmt: skip
    """h0 IN; h_n and y OUT; and the tape."""
    tape, layers = Tape([], []), range(len(stack.weights))
    calls = [stack.call(i, x, h0, sequences) for i in range(len(h0))]
    # Asked before dropout draws: a fork's warning may be an error, and must leave everything as it was.
    threads = [call.threads(stack.num_threads, most=stack.most_threads) for call in calls]
    h_n[...] = h0
    for layer in layers:
        is_last = layer == len(stack.weights) - 1
        out = y if is_last else memory.new(y.shape, y.dtype)
        tape.layers.append([])
        for i in stack.places(layer):
            own, news = columns(out, i % stack.directions, h0.shape[2]), progress.of_a_call()
            call = calls[i]._replace(x=x) if layer else calls[i]
            tape.layers[-1].append(_engine.train(call, h_n[i], own, threads[i], recompute, news))
            progress.add(sequences.n_steps)
        x = out
        if rng is not None and not is_last:
            tape.masks.append((rng.random(out.shape, out.dtype.type) >= dropout) / out.dtype.type(1 - dropout))
            x = out * tape.masks[-1]
    return tape


class Gradients(NamedTuple):
    """Of x, of the states before the first step, and of the weights of each layer and direction."""

    x: Array
    h0: Array
    weights: list[list[Sequence[Array]]]


def backward(
    tape: Tape, dy: Array | None, dh_n: Array | None, num_threads: int | None, most_threads: int | None = None
) -> Gradients:
    """From the last layer to the first."""
    found: list[list[Sequence[Array]]] = []
    call, directions = tape.layers[0][0].call, len(tape.layers[0])
    shape = len(tape.layers) * directions, *call.h0.shape
    dh = np.zeros(shape, call.h0.dtype) if dh_n is None else dh_n.copy()
    for layer in range(len(tape.layers) - 1, -1, -1):
        gradients = []
        for direction, kept in enumerate(tape.layers[layer]):
            own_dy = None if dy is None else columns(dy, direction, shape[2])
            own_dh = dh[layer * directions + direction]
            threads = kept.call.threads(num_threads, passes=3, most=most_threads)
            gradients.append(_engine.backward(kept, own_dy, own_dh, threads))
        dy = gradients[0].x
        for other in gradients[1:]:
            dy += other.x
        if tape.masks and layer:
            dy *= tape.masks[layer - 1]
        found.insert(0, [each[2:] for each in gradients])
    assert dy is not None
    return Gradients(dy, dh, found)
