"""Sequential equations of the cells of other libraries, in NumPy and in their own names and layouts.

Inputs are (rows, steps, D), as in these libraries. Results are named as those of a layer with ``batch_first=True``.
"""

from __future__ import annotations

import numpy as np
from interop_helpers import D, N


def sigmoid(a):
    return 1 / (1 + np.exp(-a))


def unroll(step, h, n_steps):
    """Results of `n_steps` calls ``h = step(i, h)``; h is (rows, N)."""
    states = []
    for i in range(n_steps):
        h = step(i, h)
        states.append(h)
    return {"y": np.stack(states, axis=1), "h_n": h[None]}


def run_paragru(x, A, B, b):
    """ParaRNN: h' = (1 - z) h + z c, from a state of zeros."""
    heads = len(B)

    def step(i, h):
        parts = np.split(x[:, i], heads, axis=1)
        rows = [np.concatenate([parts[k] @ B[k, :, gate] for k in range(heads)], axis=1) + b[gate] for gate in range(3)]
        z, r = sigmoid(A[0] * h + rows[0]), sigmoid(A[1] * h + rows[1])
        return (1 - z) * h + z * np.tanh(A[2] * h * r + rows[2])

    return unroll(step, np.zeros((len(x), A.shape[1]), x.dtype), x.shape[1])


def xma_state_dict(dtype=np.float64, input_heads=(N, N, N), weight_heads=(N, N, N), bias=True, state_head_dim=1):
    """Random weights with the names and shapes of ``xma.layers.GRU`` with four outputs."""
    rng = np.random.default_rng(31)
    n, size = max(*input_heads, *weight_heads), state_head_dim
    shapes = {
        "input_projection.weight": (sum(input_heads) * size, D),
        "input_projection.bias": (sum(input_heads) * size,),
        **{
            f"{name}_weight": (heads, size, size)
            for name, heads in zip(("state", "forget", "reset"), weight_heads, strict=True)
        },
        "output_projection.weight": (4, n * size),
        "output_projection.bias": (4,),
    }
    arrays = {name: rng.uniform(-0.9, 0.9, shape).astype(dtype) for name, shape in shapes.items()}
    return {name: array for name, array in arrays.items() if bias or not name.endswith(".bias")}


def run_xma(x, state_dict, heads, h0=None):
    """XMA: h' = f h + (1 - f) z. `heads` are the numbers of input heads of x, xf and xr; all states are (rows, N, H).

    The output projection is not applied.
    """
    size = state_dict["state_weight"].shape[-1]
    rows = x @ state_dict["input_projection.weight"].T + state_dict.get("input_projection.bias", 0)
    inputs = [part.reshape(*part.shape[:2], -1, size) for part in np.split(rows, np.cumsum(heads)[:2] * size, axis=-1)]
    weights = [state_dict[f"{name}_weight"] for name in ("state", "forget", "reset")]
    n = max(*heads, *map(len, weights))
    xz, xf, xr = (np.repeat(part, n // part.shape[2], axis=2) for part in inputs)
    W, Wf, Wr = (np.repeat(weight, n // len(weight), axis=0) for weight in weights)

    def times(h, weight):
        return (h[..., None, :] @ weight)[..., 0, :]

    def step(i, h):
        f, r = sigmoid(times(h, Wf) + xf[:, i]), sigmoid(times(h, Wr) + xr[:, i])
        z = np.tanh(times(h * r, W) + xz[:, i])
        return f * h + (1 - f) * z

    return unroll(step, np.zeros((len(x), n, size), x.dtype) if h0 is None else h0, x.shape[1])


def g(a):
    """The activation of minGRU's form in log space."""
    return np.where(a >= 0, a + 0.5, sigmoid(a))


def run_mingru(x, state_dict, h0=None, activation=g):
    """minGRU-pytorch, one step at a time: h' = lerp(h, g(hidden), sigmoid(gate)), without its output projection."""
    rows = x @ state_dict["to_hidden_and_gate.weight"].T + state_dict.get("to_hidden_and_gate.bias", 0)
    hidden, gate = np.split(rows, 2, axis=-1)

    def step(i, h):
        return h + sigmoid(gate[:, i]) * (activation(hidden[:, i]) - h)

    return unroll(step, np.zeros_like(hidden[:, 0]) if h0 is None else h0, x.shape[1])


def run_mingru_keras(x, weights, h0):
    """mingru-keras with the result of its ``get_weights()``: the candidate is linear."""
    gate_kernel, gate_bias, kernel, bias = weights
    gates, candidates = sigmoid(x @ gate_kernel + gate_bias), x @ kernel + bias

    def step(i, h):
        return h + gates[:, i] * (candidates[:, i] - h)

    return unroll(step, h0, x.shape[1])


def run_pufferlib(x, state_dict, state):
    """Logits and values (rows, steps, ...) of the default policy of PufferLib; `state` is (layers, rows, N)."""

    def linear(x, name):
        return x @ state_dict[f"{name}.weight"].T + state_dict[f"{name}.bias"]

    h, weights = linear(x, "encoder.encoder"), [state_dict[f"network.layers.{i}.weight"] for i in range(len(state))]
    for weight, h0 in zip(weights, state, strict=True):
        n = len(weight) // 3
        out = run_mingru(h, {"to_hidden_and_gate.weight": weight[: 2 * n]}, h0)["y"]
        share = sigmoid(h @ weight[2 * n :].T)
        h = share * out + (1 - share) * h
    return linear(h, "decoder.decoder"), linear(h, "decoder.value_function")[..., 0]
