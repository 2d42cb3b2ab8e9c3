"""The layer in NumPy, one line per equation: the specification that the fast code is tested against.

Time-major arrays of one dtype. `kernel` is (D, 3N), `recurrent_kernel` and `bias` are (3N,); the gate order is
r, z, candidate. It also runs the activations that no kernel has (`_tf1.run`); otherwise only tests,
benchmarks and the demo's comparison import it.

The equations are those of ``tf.contrib.rnn.IndyGRUCell`` (TensorFlow 1.14), which calls z "u".
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from indygru_cpu._typing import Array


def sigmoid(x: Array) -> Array:
    """1 / (1 + exp(-x)), in a form that cannot overflow."""
    e = np.exp(-np.abs(x))
    return np.where(x < 0, e, 1).astype(x.dtype) / (1 + e)


#: A function, and its derivative as a function of its output.
Activation = tuple[Callable[[Array], Array], Callable[[Array], Array]]

ACTIVATIONS: dict[str, Activation] = {
    "tanh": (np.tanh, lambda c: 1 - c * c),
    "relu": (lambda x: np.maximum(x, 0), lambda c: (c > 0).astype(c.dtype)),
    "sigmoid": (sigmoid, lambda c: c * (1 - c)),
    "identity": (lambda x: x, np.ones_like),
    "elu": (lambda x: np.where(x < 0, np.expm1(np.minimum(x, 0)), x), lambda c: np.minimum(c, 0) + 1),
    "softsign": (lambda x: x / (1 + np.abs(x)), lambda c: (1 - np.abs(c)) ** 2),
}


class Tape(NamedTuple):
    """What backward needs: the arguments of forward and, step by step, valid rows, states and gates."""

    x: Array  # (T, B, D)
    h0: Array  # (B, N)
    kernel: Array  # (D, 3N)
    recurrent_kernel: Array  # (3N,)
    activation: Activation
    rows: list[Array]  # of each step: which rows are valid
    y: Array  # (T, B, N)
    gates: list[Array]  # of each step: (3, valid rows, N), r, z, candidate


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
    activation: str | Activation = "tanh",
    lengths: Array | None = None,
) -> tuple[Array, Array, Tape]:
    """From x (T, B, D) and h0 (B, N), all states y (T, B, N), zero past a row's length; last states (B, N); tape."""
    act = ACTIVATIONS[activation] if isinstance(activation, str) else activation
    lengths = np.full(x.shape[1], len(x)) if lengths is None else lengths
    rows = [np.flatnonzero(t < lengths) for t in range(lengths.max(initial=0))]
    (u_r, u_z, u_c), (b_r, b_z, b_c) = np.split(recurrent_kernel, 3), np.split(bias, 3)
    h_n = h0.copy()
    y, gates = np.zeros((len(x), *h0.shape), x.dtype), []
    with np.errstate(all="ignore"):
        for t, valid in enumerate(rows):
            h = h_n[valid]
            x_r, x_z, x_c = np.split(x[t, valid] @ kernel, 3, axis=1)
            r = sigmoid(x_r + u_r * h + b_r)
            z = sigmoid(x_z + u_z * h + b_z)
            c = act[0](x_c + u_c * (r * h) + b_c)
            y[t, valid] = h_n[valid] = z * h + (1 - z) * c
            gates.append(np.stack([r, z, c]))
    return y, h_n, Tape(x, h0, kernel, recurrent_kernel, act, rows, y, gates)


def backward(tape: Tape, dy: Array, dh_n: Array) -> Gradients:
    """Gradients of ``sum(y * dy) + sum(h_n * dh_n)``. A step past a row's length takes and gives none."""
    u_r, u_z, u_c = np.split(tape.recurrent_kernel, 3)
    dx, dkernel = np.zeros_like(tape.x), np.zeros_like(tape.kernel)
    du, db = np.zeros_like(tape.recurrent_kernel), np.zeros_like(tape.recurrent_kernel)
    dh = dh_n.copy()
    with np.errstate(all="ignore"):
        for t, valid in reversed(list(enumerate(tape.rows))):
            h = (tape.y[t - 1] if t else tape.h0)[valid]
            r, z, c = tape.gates[t]
            d = dh[valid] + dy[t, valid]
            dc = d * (1 - z) * tape.activation[1](c)
            dz = d * (h - c) * z * (1 - z)
            drh = dc * u_c
            dr = drh * h * r * (1 - r)
            dh[valid] = d * z + drh * r + dz * u_z + dr * u_r
            dgates = np.concatenate([dr, dz, dc], axis=1)
            du += (dgates * np.concatenate([h, h, r * h], axis=1)).sum(axis=0)
            db += dgates.sum(axis=0)
            dx[t, valid] = dgates @ tape.kernel.T
            dkernel += tape.x[t, valid].T @ dgates
    return Gradients(dx, dh, dkernel, du, db)
