"""The slow path: a cell whose activation is a Python function runs in NumPy, by `reference`.

It takes the place of `functional`. Only valid rows take part in a step, so that nothing in the padding reaches the
function or anything else.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from indygru_cpu import reference
from indygru_cpu._engine.messages import shortened
from indygru_cpu._typing import Array, Gradients

Function = Callable[[Array], Any]


class Activation(NamedTuple):
    """A function, and its derivative as a function of its output, if known."""

    function: Function
    derivative: Function | None

    @classmethod
    def of(cls, given: object) -> Activation | None:
        """Take a function, with an attribute `derivative` or without, or a pair; None if it is neither."""
        if isinstance(given, tuple) and len(given) == 2 and all(map(callable, given)):
            return cls(*given)
        return cls(given, getattr(given, "derivative", None)) if callable(given) else None


def _checked(name: str, function: Function) -> Callable[[Array], Array]:
    """Return the function with a check: it must keep shape and dtype."""

    def checked(x: Array) -> Array:
        y = np.asarray(function(x))
        if y.shape != x.shape:
            raise ValueError(f"{name}: expected a result of shape {x.shape}, got {y.shape}")
        if y.dtype != x.dtype:
            raise TypeError(f"{name}: expected a result of {x.dtype}, got {shortened(y.dtype)}")
        return y

    return checked


def _no_derivative(_: Array) -> Array:
    raise ValueError(
        "activation: backward needs its derivative: give it an attribute `derivative`, or pass a pair "
        "(function, derivative), where derivative is a function of the activation's output"
    )


def forward(
    x: Array,
    h0: Array,
    kernel: Array,
    recurrent_kernel: Array,
    bias: Array,
    *,
    activation: Activation,
    lengths: Array | None,
    out: Array,
    tape: bool,
) -> tuple[Any, ...]:
    """Write all states into `out` and return (out, h_n) or (out, h_n, tape), as `functional.forward`."""
    derivative = activation.derivative
    pair = (
        _checked("activation", activation.function),
        _no_derivative if derivative is None else _checked("derivative of activation", derivative),
    )
    if tape:
        h0 = h0.copy()  # the caller may reset his states before backward
    out[...], h_n, kept = reference.forward(x, h0, kernel, recurrent_kernel, bias, pair, lengths)
    return (out, h_n, kept) if tape else (out, h_n)


def backward(tape: reference.ReferenceTape, dy: Array | None = None, dh_n: Array | None = None) -> Gradients:
    """Return what `functional.backward` returns."""
    dy = np.zeros_like(tape.y) if dy is None else dy
    return reference.backward(tape, dy, np.zeros_like(tape.h0) if dh_n is None else dh_n)
