"""The layer in NumPy, one line per equation: the specification that the fast code is tested against.

Time-major arrays of one dtype. `kernel` is (D, 3N), `recurrent_kernel` and `bias` are (3N,); the gate order is
r, z, candidate. Only tests and benchmarks import this module.

The equations are those of ``tf.contrib.rnn.IndyGRUCell`` (TensorFlow 1.14), which calls z "u".
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

Array = np.ndarray[Any, Any]


def sigmoid(x: Array) -> Array:
    """1 / (1 + exp(-x)), in a form that cannot overflow."""
    e = np.exp(-np.abs(x))
    return np.where(x < 0, e, 1).astype(x.dtype) / (1 + e)


#: name -> (function, its derivative from its output)
ACTIVATIONS = {
    "tanh": (np.tanh, lambda c: 1 - c * c),
    "relu": (lambda x: np.maximum(x, 0), lambda c: (c > 0).astype(c.dtype)),
    "sigmoid": (sigmoid, lambda c: c * (1 - c)),
    "identity": (lambda x: x, np.ones_like),
    "elu": (lambda x: np.where(x < 0, np.expm1(np.minimum(x, 0)), x), lambda c: np.minimum(c, 0) + 1),
    "softsign": (lambda x: x / (1 + np.abs(x)), lambda c: (1 - np.abs(c)) ** 2),
}


class Tape(NamedTuple):
    """What backward needs: the arguments of forward and, step by step, states and gates."""

    x: Array  # (T, B, D)
    h0: Array  # (B, N)
    kernel: Array  # (D, 3N)
    recurrent_kernel: Array  # (3N,)
    activation: str
    lengths: Array  # (B,)
    y: Array  # (T, B, N)
    gates: Array  # (T, 3, B, N): r, z, candidate


class Gradients(NamedTuple):
    """Gradients of a scalar, shaped like the arguments of forward."""

    x: Array
    h0: Array
    kernel: Array
    recurrent_kernel: Array
    bias: Array


def forward(
    x: Array,
    h0: Array,
    kernel: Array,
    recurrent_kernel: Array,
    bias: Array,
    activation: str = "tanh",
    lengths: Array | None = None,
) -> tuple[Array, Array, Tape]:
    """x (T, B, D), h0 (B, N) -> all states y (T, B, N), zero past a row's length; last states (B, N); tape."""
    act = ACTIVATIONS[activation][0]
    n_steps, n_batch, _ = x.shape
    lengths = np.full(n_batch, n_steps) if lengths is None else np.asarray(lengths)
    u_r, u_z, u_c = np.split(recurrent_kernel, 3)
    b_r, b_z, b_c = np.split(bias, 3)
    h = h0
    y = np.zeros((n_steps, *h0.shape), x.dtype)
    gates = np.zeros((n_steps, 3, *h0.shape), x.dtype)
    with np.errstate(all="ignore"):
        for t in range(n_steps):
            x_r, x_z, x_c = np.split(x[t] @ kernel, 3, axis=1)
            r = sigmoid(x_r + u_r * h + b_r)
            z = sigmoid(x_z + u_z * h + b_z)
            c = act(x_c + u_c * (r * h) + b_c)
            valid = (t < lengths)[:, None]
            h = np.where(valid, z * h + (1 - z) * c, h)
            y[t] = np.where(valid, h, 0)
            gates[t] = np.where(valid, np.stack([r, z, c]), 0)
    return y, h, Tape(x, h0, kernel, recurrent_kernel, activation, lengths, y, gates)


def backward(tape: Tape, dy: Array, dh_n: Array) -> Gradients:
    """Gradients of ``sum(y * dy) + sum(h_n * dh_n)``. A step past a row's length takes and gives none."""
    x, h0, kernel, recurrent_kernel, activation, lengths, y, gates = tape
    derivative = ACTIVATIONS[activation][1]
    u_r, u_z, u_c = np.split(recurrent_kernel, 3)
    dx, dkernel = np.zeros_like(x), np.zeros_like(kernel)
    du, db = np.zeros_like(recurrent_kernel), np.zeros_like(recurrent_kernel)
    dh = dh_n
    with np.errstate(all="ignore"):
        for t in reversed(range(len(x))):
            valid = (t < lengths)[:, None]
            h = y[t - 1] if t else h0
            r, z, c = gates[t]
            d = dh + dy[t]
            dc = d * (1 - z) * derivative(c)
            dz = d * (h - c) * z * (1 - z)
            drh = dc * u_c
            dr = drh * h * r * (1 - r)
            dh = np.where(valid, d * z + drh * r + dz * u_z + dr * u_r, dh)
            dgates = np.where(valid, np.stack([dr, dz, dc]), 0)
            du += (dgates * np.stack([h, h, r * h])).sum(axis=1).ravel()
            db += dgates.sum(axis=1).ravel()
            dplanes = np.concatenate(list(dgates), axis=1)
            dx[t] = dplanes @ kernel.T
            dkernel += np.where(valid, x[t], 0).T @ dplanes
    return Gradients(dx, dh, dkernel, du, db)
