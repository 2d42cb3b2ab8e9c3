"""Speaker classification with JAX: nine speakers utter /ae/ (Japanese Vowels, 12 cepstrum coefficients a frame).

pip install "indygru_cpu[jax]" && python examples/jax_speakers.py [EPOCHS]
"""

from __future__ import annotations

import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from indygru_cpu import IndyGRU
from indygru_cpu.datasets import japanese_vowels
from indygru_cpu.jax import indygru

Tree = Any


def scores(params: Tree, x: jax.Array, lengths: jax.Array) -> jax.Array:
    """Scores of nine speakers: a linear map of the mean state of an utterance."""
    y, _ = indygru(params["gru"], x, lengths=lengths)  # y is 0 past the end of an utterance
    return y.sum(axis=0) / lengths[:, None] @ params["head"]


def loss(params: Tree, x: jax.Array, lengths: jax.Array, speakers: jax.Array) -> jax.Array:
    log_p = jax.nn.log_softmax(scores(params, x, lengths))
    return -jnp.take_along_axis(log_p, speakers[:, None], axis=1).mean()


@jax.jit
def adam_step(params: Tree, moments: Tree, step: int, *data: jax.Array) -> tuple[Tree, Tree]:
    gradients = jax.grad(loss)(params, *data)
    mean = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, moments[0], gradients)
    square = jax.tree.map(lambda m, g: 0.999 * m + 0.001 * g * g, moments[1], gradients)
    rate = 0.01 * jnp.sqrt(1 - 0.999**step) / (1 - 0.9**step)
    return jax.tree.map(lambda p, m, s: p - rate * m / (jnp.sqrt(s) + 1e-8), params, mean, square), (mean, square)


def main() -> None:
    epochs = int(sys.argv[1]) if len(sys.argv) > 1 else 40
    rng = np.random.default_rng(0)
    train, test = japanese_vowels()
    mean, scale = train.x[train.valid].mean(axis=0), train.x[train.valid].std(axis=0)
    initial = IndyGRU(12, 64, seed=0).parameters
    gru = {name: jnp.asarray(initial[f"{name}_l0"]) for name in ("kernel", "recurrent_kernel", "bias")}
    params: Tree = {"gru": gru, "head": jnp.zeros((64, 9))}
    moments, step = (jax.tree.map(jnp.zeros_like, params),) * 2, 0
    for _ in range(epochs):
        for rows in rng.permutation(len(train.speakers)).reshape(-1, 30):
            batch, step = train.select(rows), step + 1
            params, moments = adam_step(params, moments, step, (batch.x - mean) / scale, *batch[1:])
    correct = scores(params, (test.x - mean) / scale, test.lengths).argmax(axis=1) == test.speakers
    print(f"Test accuracy: {100 * correct.mean():.1f}%")


if __name__ == "__main__":
    main()
