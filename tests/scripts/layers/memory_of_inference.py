"""Inference over a long sequence succeeds with 16 MB to spare, where a copy of x or a y would need 19 MB."""

from __future__ import annotations

import numpy as np
from process_state import MEGABYTE, limit_address_space

from indygru_cpu import IndyGRU

T, B, D, N = 16384, 9, 33, 34
x = np.full((T, B, D), 0.5, np.float32)
y = np.full((T, B, 2 * N), 0.375, np.float32)
values, offsets = x.reshape(T * B, D), np.arange(B + 1) * T
OPTIONS = {
    "single": {},
    "stacked": {"num_layers": 3},
    "single, batch first": {"batch_first": True},
    "stacked, batch first": {"num_layers": 3, "batch_first": True},
    "bidirectional": {"bidirectional": True},
}
layers = {name: IndyGRU(D, N, num_threads=1, seed=7, **options) for name, options in OPTIONS.items()}


def inference_calls(x, y, values, offsets):
    for name in ("single", "stacked"):
        layer = layers[name]
        yield lambda layer=layer: layer(x, out=y[..., :N])
        yield lambda layer=layer: layer.last(x)
        yield lambda layer=layer: layer(x, lengths=[len(x) - 1] * B, out=y[..., :N])
    for name in ("single, batch first", "stacked, batch first"):
        layer = layers[name]
        yield lambda layer=layer: layer(x.swapaxes(0, 1), out=y[..., :N].swapaxes(0, 1))
        yield lambda layer=layer: layer.last(x.swapaxes(0, 1))
    yield lambda: layers["bidirectional"](x, out=y)
    yield lambda: layers["bidirectional"].last(x)
    yield lambda: layers["single"].ragged(values, offsets, out=y.reshape(-1, 2 * N)[:, :N])


for call in inference_calls(x[:33], y[:33], values[: 33 * B], np.arange(B + 1) * 33):
    call()
limit_address_space(16 * MEGABYTE)
for call in inference_calls(x, y, values, offsets):
    call()
    assert y[-2].any()
too_large = [
    lambda: layers["single"](x),
    lambda: layers["bidirectional"].last(x.copy()),
    lambda: layers["single"].forward(x),
]
for call in too_large:
    try:
        call()
    except MemoryError:
        continue
    raise AssertionError("the memory limit has no effect")
layers["single"].last(x)
