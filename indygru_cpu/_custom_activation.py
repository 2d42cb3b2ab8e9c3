"""The layer in NumPy, for an activation that is a Python function: the slow path.

It takes the place of `functional`: time-major arrays, gate order r, z, candidate. A row takes part in a step
only while it is valid, so that nothing in the padding reaches the function or anything else.

The equations are those of ``tf.contrib.rnn.IndyGRUCell`` (TensorFlow 1.14).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from indygru_cpu.functional import Gradients

Array = np.ndarray[Any, Any]
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


def _applied(name: str, function: Function, x: Array) -> Array:
    """Call the function, which must keep shape and dtype."""
    y = np.asarray(function(x))
    if y.shape != x.shape:
        raise ValueError(f"{name}: expected a result of shape {x.shape}, got {y.shape}")
    if y.dtype != x.dtype:
        raise TypeError(f"{name}: expected a result of {x.dtype}, got {y.dtype}")
    return y


def _sigmoid(x: Array) -> Array:
    return 0.5 * np.tanh(0.5 * x) + 0.5  # cannot overflow


@dataclass(frozen=True, eq=False)
class Tape:
    """What backward needs: arguments, valid rows by step, states (T, B, N) and gates (T, 3, B, N)."""

    x: Array
    h0: Array
    kernel: Array
    recurrent_kernel: Array
    activation: Activation
    rows: list[Array]
    y: Array
    gates: Array


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
    n_steps, n_batch, _ = x.shape
    lengths = np.full(n_batch, n_steps) if lengths is None else lengths
    rows = [np.flatnonzero(t < lengths) for t in range(lengths.max(initial=0))]
    gates = np.zeros((len(rows), 3, *h0.shape), x.dtype) if tape else None
    (u_r, u_z, u_c), (b_r, b_z, b_c) = np.split(recurrent_kernel, 3), np.split(bias, 3)
    h_n = h0.copy()
    out[...] = 0
    with np.errstate(all="ignore"):
        for t, valid in enumerate(rows):
            h = h_n[valid]
            x_r, x_z, x_c = np.split(x[t, valid] @ kernel, 3, axis=1)
            r = _sigmoid(x_r + u_r * h + b_r)
            z = _sigmoid(x_z + u_z * h + b_z)
            c = _applied("activation", activation.function, x_c + u_c * (r * h) + b_c)
            out[t, valid] = h_n[valid] = z * h + (1 - z) * c
            if gates is not None:
                gates[t][:, valid] = r, z, c
    if gates is None:
        return out, h_n
    return out, h_n, Tape(x, h0, kernel, recurrent_kernel, activation, rows, out, gates)


def backward(tape: Tape, dy: Array | None = None, dh_n: Array | None = None) -> Gradients:
    """Return what `functional.backward` returns."""
    if tape.activation.derivative is None:
        raise ValueError(
            "activation: backward needs its derivative: give it an attribute `derivative`, or pass a pair "
            "(function, derivative), where derivative is a function of the activation's output"
        )
    u_r, u_z, u_c = np.split(tape.recurrent_kernel, 3)
    dy = np.zeros_like(tape.y) if dy is None else dy
    dh = np.zeros_like(tape.h0) if dh_n is None else dh_n.copy()
    dx, dkernel = np.zeros_like(tape.x), np.zeros_like(tape.kernel)
    du, db = np.zeros_like(tape.recurrent_kernel), np.zeros_like(tape.recurrent_kernel)
    with np.errstate(all="ignore"):
        for t, valid in reversed(list(enumerate(tape.rows))):
            h = (tape.y[t - 1] if t else tape.h0)[valid]
            r, z, c = tape.gates[t][:, valid]
            d = dh[valid] + dy[t, valid]
            dc = d * (1 - z) * _applied("derivative of activation", tape.activation.derivative, c)
            dz = d * (h - c) * z * (1 - z)
            drh = dc * u_c
            dr = drh * h * r * (1 - r)
            dh[valid] = d * z + drh * r + dz * u_z + dr * u_r
            dgates = np.concatenate([dr, dz, dc], axis=1)
            du += (dgates * np.concatenate([h, h, r * h], axis=1)).sum(axis=0)
            db += dgates.sum(axis=0)
            dkernel += tape.x[t, valid].T @ dgates
            dx[t, valid] = dgates @ tape.kernel.T
    return Gradients(dx, dh, dkernel, du, db)
