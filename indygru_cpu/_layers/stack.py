"""Stacked layers in one or two directions: the calls of `_engine` that they consist of, and the data between them.

Arrays are time-major (T, B, width), or ragged (sum of lengths, width). The directions of a layer write their N columns
side by side into one y. The states of all layers and directions are one array (layers * directions, B, N).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from indygru_cpu import _engine
from indygru_cpu._engine import checks as check
from indygru_cpu._engine import memory
from indygru_cpu._engine.arguments import BoundArguments, Weights
from indygru_cpu._engine.sequences import SequenceLayout
from indygru_cpu._layers.parameters import KINDS, suffixes
from indygru_cpu._layers.progress import Progress
from indygru_cpu._typing import Array

#: Bytes of an inner layer's y that are computed before the next layer reads them. This bounds memory and keeps the data
#: in L3. A smaller value costs more for packing weights and starting calls than L2 saves (docs/speed.md).
INNER_BYTES = 4 * 1024 * 1024
#: The smallest number of steps of such a segment.
MIN_SEGMENT_STEPS = 16


class Stack(NamedTuple):
    """The weights of each layer and direction, and the options that all of them share.

    Attributes
    ----------
    weights : list of list of Weights
        By layer and direction.
    groups, activation, reproducible
        As in `BoundArguments`.
    num_threads : int or None
        Threads of a call; None lets each call choose.
    n_directions : int
        1 or 2.
    max_threads : int or None
        Limit of calls whose number of threads is chosen.
    """

    weights: list[list[Weights]]
    groups: int
    activation: int
    reproducible: bool
    num_threads: int | None
    n_directions: int
    max_threads: int | None = None

    @classmethod
    def from_options(cls, options: Mapping[str, Any], arrays: dict[str, Array], num_threads: int | None) -> Stack:
        """A stack with a layer's checked options and parameters."""
        weights = [
            [Weights.from_arrays(*(arrays.get(kind + end) for kind in KINDS)) for end in ends]  # type: ignore[arg-type]
            for ends in suffixes(options["num_layers"], options["bidirectional"])
        ]
        activation = check.activation_index(options["activation"])
        return cls(weights, options["groups"], activation, options["reproducible"], num_threads, len(weights[0]))

    def with_threads(self, num_threads: int | None) -> Stack:
        """The same stack with this number of threads; itself for None or for the same number."""
        if num_threads is None or num_threads == self.num_threads:
            return self
        return self._replace(num_threads=num_threads)

    def state_indices(self, layer: int) -> range:
        """Indices of a layer's directions in the states of all layers, (layers * directions, B, N)."""
        return range(layer * self.n_directions, (layer + 1) * self.n_directions)

    def bind(self, index: int, x: Array, h: Array, sequences: SequenceLayout) -> BoundArguments:
        """The arguments of the layer and direction that has the state ``h[index]``."""
        layer, direction = divmod(index, self.n_directions)
        sequences = sequences.reversed() if direction else sequences
        weights = self.weights[layer][direction]
        return BoundArguments(x, h[index], weights, sequences, self.groups, self.activation, self.reproducible)


def columns(y: Array, direction: int, n_units: int) -> Array:
    """The columns of one direction in a layer's y, or in its gradient."""
    return y if y.shape[-1] == n_units else y[..., direction * n_units : (direction + 1) * n_units]


def infer(
    stack: Stack, x: Array, h: Array, y: Array | None, sequences: SequenceLayout, progress: Progress | None
) -> None:
    """Inference: all layers, without a tape.

    Parameters
    ----------
    stack : Stack
        Weights and options.
    x : array
        Inputs.
    h : array, (layers * directions, B, N)
        The states before the first step; overwritten with those after the last.
    y : array or None
        Output: all states of the last layer. None stores none.
    sequences : SequenceLayout
        Positions of each row's steps in x and y.
    progress : Progress or None
        Reports the steps of all calls.
    """
    last, n_units, n_directions = len(stack.weights) - 1, h.shape[2], stack.n_directions
    segments: Sequence[_Segment] | Iterator[_Segment] = ((x, y, sequences),)
    inner: list[Array] = []
    if last > 0:
        n_steps = max(1, len(x))
        if n_directions == 1 and not sequences.is_ragged:
            n_steps = min(n_steps, max(MIN_SEGMENT_STEPS, INNER_BYTES // max(1, h[0].nbytes)))
            segments = _segments(x, y, sequences, n_steps)
        shape = (n_steps, *x.shape[1:-1], n_directions * n_units)
        inner = [memory.new(shape, x.dtype) for _ in range(min(2, last))]
    for inputs, outputs, rows in segments:
        for layer in range(last + 1):
            layer_y = outputs if layer == last else inner[layer % 2][: len(inputs)]
            for i in stack.state_indices(layer):
                call = stack.bind(i, inputs, h, rows)
                y_columns = None if layer_y is None else columns(layer_y, i % n_directions, n_units)
                threads = call.threads(stack.num_threads, max_threads=stack.max_threads)
                callback = None if progress is None else progress.callback()
                _engine.forward(call, call.h0, y_columns, threads, callback)
                if progress is not None:
                    progress.add(rows.n_steps)
            if layer_y is not None:
                inputs = layer_y


#: The x and y of some steps, and their layout.
_Segment = tuple[Array, Array | None, SequenceLayout]


def _segments(x: Array, y: Array | None, sequences: SequenceLayout, n_steps: int) -> Iterator[_Segment]:
    """Padded arrays in segments of `n_steps` steps, through which all layers run before the next segment begins."""
    for first in range(0, max(1, len(x)), n_steps):
        steps = slice(first, first + n_steps)
        rows = sequences.segment(first, min(n_steps, len(x) - first))
        yield x[steps], None if y is None else y[steps], rows


def forward(
    stack: Stack, x: Array, h0: Array, h_n: Array, y: Array, sequences: SequenceLayout, progress: Progress | None, *,
    recompute: bool, dropout: float, rng: np.random.Generator | None,
) -> tuple[list[list[_engine.Tape]], list[Array]]:  # fmt: skip
    """Training: all layers, with dropout between them if `rng` is not None.

    h_n and y are outputs; the other parameters are those of `infer`.

    Returns
    -------
    tapes : list of list of Tape
        By layer and direction.
    masks : list of array
        The factors of dropout for each inner layer's y; empty without dropout.
    """
    tapes: list[list[_engine.Tape]] = []
    masks: list[Array] = []
    last, n_directions = len(stack.weights) - 1, stack.n_directions
    calls = [stack.bind(i, x, h0, sequences) for i in range(len(h0))]
    # Before dropout draws: a warning about a fork may be an error, which must leave the generator unchanged.
    threads = [call.threads(stack.num_threads, max_threads=stack.max_threads) for call in calls]
    h_n[...] = h0
    for layer in range(last + 1):
        layer_y = y if layer == last else memory.new(y.shape, y.dtype)
        tapes.append([])
        for i in stack.state_indices(layer):
            call = calls[i]._replace(x=x) if layer else calls[i]
            y_columns = columns(layer_y, i % n_directions, h0.shape[2])
            callback = None if progress is None else progress.callback()
            tapes[-1].append(_engine.train(call, h_n[i], y_columns, threads[i], recompute, callback))
            if progress is not None:
                progress.add(sequences.n_steps)
        x = layer_y
        if rng is not None and layer < last:
            dtype = layer_y.dtype.type
            masks.append((rng.random(layer_y.shape, dtype) >= dropout) / dtype(1 - dropout))
            x = layer_y * masks[-1]
    return tapes, masks


def backward(
    tapes: list[list[_engine.Tape]], masks: list[Array], dy: Array | None, dh_n: Array | None,
    num_threads: int | None, max_threads: int | None = None,
) -> tuple[Array, Array, list[list[Sequence[Array]]]]:  # fmt: skip
    """Gradients, from the last layer to the first.

    Returns
    -------
    dx : array
        Gradient with respect to x.
    dh0 : array, (layers * directions, B, N)
        Gradient with respect to the states before the first step.
    dweights : list of list of sequences of array
        Gradients with respect to kernel, recurrent kernel and bias, by layer and direction.
    """
    dweights: list[list[Sequence[Array]]] = []
    call, n_directions = tapes[0][0].call, len(tapes[0])
    n_batch, n_units = call.h0.shape
    dh = np.zeros((len(tapes) * n_directions, n_batch, n_units), call.h0.dtype) if dh_n is None else dh_n.copy()
    for layer in range(len(tapes) - 1, -1, -1):
        gradients = []
        for direction, tape in enumerate(tapes[layer]):
            dy_columns = None if dy is None else columns(dy, direction, n_units)
            threads = tape.call.threads(num_threads, passes=3, max_threads=max_threads)
            gradients.append(_engine.backward(tape, dy_columns, dh[layer * n_directions + direction], threads))
        dy = gradients[0].x
        for reverse in gradients[1:]:
            dy += reverse.x
        if masks and layer:
            dy *= masks[layer - 1]
        dweights.insert(0, [each[2:] for each in gradients])
    assert dy is not None
    return dy, dh, dweights
