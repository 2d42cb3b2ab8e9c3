"""JAX: `lax.scan` over projections hoisted out of the loop, the whole layer under one `jit`.

No argument is donated: inputs and weights of a layer are needed again. XLA takes its number of threads from NPROC.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from cases import Case


def layer(x: Any, h0: Any, kernel: Any, recurrent_kernel: Any, bias: Any) -> Any:
    u_r, u_z, u_c = recurrent_kernel.reshape(3, -1)

    def step(h: Any, gates: Any) -> tuple[Any, Any]:
        g_r, g_z, g_c = gates[:, 0], gates[:, 1], gates[:, 2]
        r, z = jax.nn.sigmoid(g_r + u_r * h), jax.nn.sigmoid(g_z + u_z * h)
        c = jnp.tanh(g_c + u_c * (r * h))
        h = z * h + (1 - z) * c
        return h, h

    gates = (x.reshape(-1, x.shape[2]) @ kernel + bias).reshape(*x.shape[:2], 3, -1)
    return jax.lax.scan(step, h0, gates, unroll=8)[1]


def gradients(dy: Any, *arguments: Any) -> Any:
    return jax.vjp(layer, *arguments)[1](dy)


def prepared(function: Any, *arrays: Any) -> Callable[[], Any]:
    """Compile for the arguments, which are on JAX's device; every call waits for its result."""
    arguments = jax.device_put(arrays)
    compiled = jax.jit(function).lower(*arguments).compile()
    return lambda: jax.block_until_ready(compiled(*arguments))


def forward(case: Case) -> Callable[[], Any]:
    return prepared(layer, case.x, case.h0, *case.weights)


def training(case: Case) -> Callable[[], Any]:
    return prepared(gradients, case.dy, case.x, case.h0, *case.weights)
