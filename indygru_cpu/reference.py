"""The specification: the layer in NumPy, one line per equation, against which the compiled code is tested.

Arrays are time-major and of one dtype. `kernel` is (D, PN), `recurrent_kernel` and `bias` are (PN,). P is 3, and the
gate order is r, z, candidate; without a reset gate P is 2, and the order is z, candidate. The package uses it for
activations without a kernel (`_tf1`) and for the comparison of the demo.

The equations are those of ``tf.contrib.rnn.IndyGRUCell`` (TensorFlow 1.14), which calls z "u".
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from indygru_cpu._typing import Array, Gradients


def sigmoid(x: Array) -> Array:
    """1 / (1 + exp(-x)), in a form that does not overflow."""
    e = np.exp(-np.abs(x))
    return np.where(x < 0, e, 1).astype(x.dtype) / (1 + e)


def mingru(x: Array) -> Array:
    """The function g of minGRU: x + 1/2 from x = 0 on, else sigmoid(x) (Feng et al. 2024, "Were RNNs All We Needed?").

    Results of negative x are below 1/2, so that the derivative can be computed from the result.
    """
    half = x.dtype.type(0.5)
    return np.where(x >= 0, x + half, np.minimum(sigmoid(x), np.nextafter(half, half - half)))


#: A function, and its derivative as a function of the function's output.
Activation = tuple[Callable[[Array], Array], Callable[[Array], Array]]

ACTIVATIONS: dict[str, Activation] = {
    "tanh": (np.tanh, lambda c: 1 - c * c),
    "relu": (lambda x: np.maximum(x, 0), lambda c: (c > 0).astype(c.dtype)),
    "sigmoid": (sigmoid, lambda c: c * (1 - c)),
    "identity": (lambda x: x, np.ones_like),
    "elu": (lambda x: np.where(x < 0, np.expm1(np.minimum(x, 0)), x), lambda c: np.minimum(c, 0) + 1),
    "softsign": (lambda x: x / (1 + np.abs(x)), lambda c: (1 - np.abs(c)) ** 2),
    "mingru": (mingru, lambda c: np.where(c >= 0.5, c.dtype.type(1), c * (1 - c))),
}


class ReferenceTape(NamedTuple):
    """The data that `backward` needs from a call of `forward`."""

    x: Array  # (T, B, D)
    h0: Array  # (B, N)
    kernel: Array  # (D, PN)
    recurrent_kernel: Array  # (PN,)
    activation: Activation
    rows: list[Array]  # of each step: indices of the valid rows
    y: Array  # (T, B, N)
    gates: list[Array]  # of each step: (3, valid rows, N), r, z, candidate; r is 1 without a reset gate
    reset_gate: bool


def _planes(array: Array, reset_gate: bool) -> list[Array]:
    """The planes (..., N) of r, z and candidate of an array (..., PN). Without a reset gate that of r is zeros."""
    if reset_gate:
        return np.split(array, 3, axis=-1)
    z, c = np.split(array, 2, axis=-1)
    return [np.zeros_like(z), z, c]


def forward(
    x: Array,
    h0: Array,
    kernel: Array,
    recurrent_kernel: Array,
    bias: Array,
    activation: str | Activation = "tanh",
    lengths: Array | None = None,
    reset_gate: bool = True,
) -> tuple[Array, Array, ReferenceTape]:
    """Run the layer.

    Parameters
    ----------
    x : array, (T, B, D)
        Inputs.
    h0 : array, (B, N)
        State before the first step.
    kernel, recurrent_kernel, bias : arrays, (D, PN), (PN,) and (PN,)
        Weights.
    activation : str or Activation
        Activation of the candidate: a name of ACTIVATIONS, or a function with its derivative.
    lengths : array of int, (B,), optional
        Valid steps of each row; None is T for every row.
    reset_gate : bool
        Whether the layer has a reset gate. Without one r is 1.

    Returns
    -------
    y : array, (T, B, N)
        All states; 0 past a row's length.
    h_n : array, (B, N)
        State after each row's last valid step.
    tape : ReferenceTape
        For `backward`.
    """
    act = ACTIVATIONS[activation] if isinstance(activation, str) else activation
    lengths = np.full(x.shape[1], len(x)) if lengths is None else lengths
    rows = [np.flatnonzero(t < lengths) for t in range(lengths.max(initial=0))]
    (u_r, u_z, u_c), (b_r, b_z, b_c) = _planes(recurrent_kernel, reset_gate), _planes(bias, reset_gate)
    h_n = h0.copy()
    y, gates = np.zeros((len(x), *h0.shape), x.dtype), []
    with np.errstate(all="ignore"):
        for t, valid in enumerate(rows):
            h = h_n[valid]
            x_r, x_z, x_c = _planes(x[t, valid] @ kernel, reset_gate)
            r = sigmoid(x_r + u_r * h + b_r) if reset_gate else np.ones_like(h)
            z = sigmoid(x_z + u_z * h + b_z)
            c = act[0](x_c + u_c * (r * h) + b_c)
            y[t, valid] = h_n[valid] = z * h + (1 - z) * c
            gates.append(np.stack([r, z, c]))
    return y, h_n, ReferenceTape(x, h0, kernel, recurrent_kernel, act, rows, y, gates, reset_gate)


def backward(tape: ReferenceTape, dy: Array, dh_n: Array) -> Gradients:
    """Gradients of ``sum(y * dy) + sum(h_n * dh_n)``. Values of dy past a row's length have no effect."""
    u_r, u_z, u_c = _planes(tape.recurrent_kernel, tape.reset_gate)
    n_planes = 3 if tape.reset_gate else 2
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
            dh[valid] = d * z + drh * r + dz * u_z + (dr * u_r if tape.reset_gate else 0)
            dgates = np.concatenate([dr, dz, dc][-n_planes:], axis=1)
            du += (dgates * np.concatenate([h, h, r * h][-n_planes:], axis=1)).sum(axis=0)
            db += dgates.sum(axis=0)
            dx[t, valid] = dgates @ tape.kernel.T
            dkernel += tape.x[t, valid].T @ dgates
    return Gradients(dx, dh, dkernel, du, db)
