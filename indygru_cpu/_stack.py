"""Layers on top of each other, in one direction or both: calls of `functional`, and what lies between them.

Everything here is time-major (T, B, width), or ragged (sum of lengths, width). Directions of a layer write their N
columns of one y side by side; states of all layers and directions are one array (layers * directions, B, N).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from indygru_cpu import functional
from indygru_cpu._forms import Rows
from indygru_cpu._progress import Progress
from indygru_cpu._weighted import Weighted

Array = np.ndarray[Any, Any]
#: Bytes of an inner layer's y that are made before the next layer takes them. They stay in L3, and memory bounded; less
#: costs more for packing weights and starting calls than L2 saves (CONTRIBUTING.md).
INNER_BYTES = 4 * 1024 * 1024
LEAST_STEPS = 16


class Stack(NamedTuple):
    """What a stack is: the weights of each layer and direction, and the options that all share."""

    weights: list[list[tuple[Array, Array, Array | None]]]
    options: dict[str, Any]

    @classmethod
    def of(cls, layer: Weighted, num_threads: int | None) -> Stack:
        """A layer's, as it is now."""
        arrays, suffixes = layer.parameters, ("", "_reverse") if layer.bidirectional else ("",)
        weights = [
            [
                (arrays[f"kernel_l{k}{s}"], arrays[f"recurrent_kernel_l{k}{s}"], arrays.get(f"bias_l{k}{s}"))
                for s in suffixes
            ]
            for k in range(layer.num_layers)
        ]
        options = {
            "groups": layer.groups, "activation": layer.activation, "reproducible": layer.reproducible,
            "num_threads": layer.num_threads if num_threads is None else num_threads,
        }  # fmt: skip
        return cls(weights, options)

    @property
    def directions(self) -> int:
        """1 or 2."""
        return len(self.weights[0])


class Tape(NamedTuple):
    """What `backward` needs: each layer's and direction's tape, and what dropout multiplied each inner y with."""

    layers: list[list[functional.Tape]]
    masks: list[Array]


def columns(direction: int, n_units: int) -> tuple[Any, ...]:
    """Where a direction's y lies in the y of both."""
    return ..., slice(direction * n_units, (direction + 1) * n_units)


def _call(stack: Stack, layer: int, direction: int, x: Array, h0: Array, rows: Rows, **options: Any) -> tuple[Any, ...]:
    kernel, recurrent_kernel, bias = stack.weights[layer][direction]
    return functional.forward(
        x, h0, kernel, recurrent_kernel, bias, lengths=rows.lengths, offsets=rows.offsets, reverse=direction == 1,
        **stack.options, **options,
    )  # fmt: skip


def infer(stack: Stack, x: Array, h: Array, y: Array | None, rows: Rows, progress: Progress) -> None:
    """Inference: h, the states before the first step, IN, and after the last, OUT; y OUT, or None if unwanted."""
    n_inner, steps = len(stack.weights) - 1, len(x)
    if n_inner and stack.directions == 1 and rows.offsets is None:
        steps = max(LEAST_STEPS, INNER_BYTES // max(1, h[0].nbytes))
    shape = (min(steps, len(x)), *x.shape[1:-1], stack.directions * h.shape[2])
    buffers = [np.empty(shape, x.dtype) for _ in range(min(2, n_inner))]
    for first in range(0, max(1, len(x)), max(1, steps)):
        part = slice(first, first + steps)
        inputs = x[part]
        for layer in range(n_inner):
            out = buffers[layer % 2][: len(inputs)]
            _infer_layer(stack, layer, inputs, h, out, rows.part(first, len(inputs)), progress)
            inputs = out
        _infer_layer(stack, n_inner, inputs, h, y if y is None else y[part], rows.part(first, len(inputs)), progress)


def _infer_layer(
    stack: Stack, layer: int, x: Array, h: Array, out: Array | None, rows: Rows, progress: Progress
) -> None:
    for direction in range(stack.directions):
        state = h[layer * stack.directions + direction]
        _call(
            stack, layer, direction, x, state, rows, h_out=state,
            out=None if out is None else out[columns(direction, h.shape[2])], return_sequences=out is not None,
            progress=progress.of_a_call(),
        )  # fmt: skip
        progress.add(rows.n_steps(x))


def forward(
    stack: Stack, x: Array, h0: Array, h_n: Array, y: Array, rows: Rows, progress: Progress, *, recompute: bool,
    dropout: float, rng: np.random.Generator,
) -> Tape:  # fmt: skip
    """h0 IN; h_n and y OUT; and the tape."""
    tape = Tape([], [])
    for layer in range(len(stack.weights)):
        is_last = layer == len(stack.weights) - 1
        out = y if is_last else np.empty(y.shape, y.dtype)
        tape.layers.append([])
        for direction in range(stack.directions):
            i = layer * stack.directions + direction
            *_, kept = _call(
                stack, layer, direction, x, h0[i], rows, h_out=h_n[i],
                out=out[columns(direction, h0.shape[2])], tape=True, recompute=recompute,
                progress=progress.of_a_call(),
            )  # fmt: skip
            tape.layers[-1].append(kept)
            progress.add(rows.n_steps(x))
        x = out
        if dropout and not is_last:
            tape.masks.append((rng.random(out.shape, out.dtype.type) >= dropout) / out.dtype.type(1 - dropout))
            x = out * tape.masks[-1]
    return tape


class Gradients(NamedTuple):
    """Of x, of the states before the first step, and of the weights of each layer and direction."""

    x: Array
    h0: Array
    weights: list[list[Sequence[Array]]]


def backward(tape: Tape, dy: Array | None, dh_n: Array | None, num_threads: int | None) -> Gradients:
    """From the last layer to the first."""
    found: list[list[Sequence[Array]]] = []
    dh0: list[Array] = []
    for layer, tapes in reversed(list(enumerate(tape.layers))):
        gradients = []
        for direction, kept in enumerate(tapes):
            n_units = kept.y.shape[-1]
            gradients.append(
                functional.backward(
                    kept,
                    None if dy is None else dy[columns(direction, n_units)],
                    None if dh_n is None else dh_n[layer * len(tapes) + direction],
                    num_threads=num_threads,
                )
            )
        dy = gradients[0].x
        for other in gradients[1:]:
            dy += other.x
        if tape.masks and layer:
            dy *= tape.masks[layer - 1]
        found.insert(0, [each[2:] for each in gradients])
        dh0 = [each.h0 for each in gradients] + dh0
    assert dy is not None
    return Gradients(dy, np.stack(dh0), found)
