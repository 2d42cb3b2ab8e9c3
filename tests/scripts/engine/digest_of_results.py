"""Digests of the results of every entry point, for the shapes in the first argument, a JSON list of (T, B, D, N)."""

from __future__ import annotations

import hashlib
import json
import sys

import helpers
import numpy as np

from indygru_cpu import IndyGRU


def digest(arrays):
    return hashlib.sha256(b"".join(np.ascontiguousarray(array) for array in arrays)).hexdigest()[:12]


def stack_results(dtype):
    rng = np.random.default_rng(3)
    x = rng.standard_normal((60, 17, 9)).astype(dtype)
    layer = IndyGRU(9, 65, num_layers=2, bidirectional=True, dropout=0.25, seed=4, dtype=dtype)
    lengths = rng.integers(0, 61, 17)
    y, h_n, tape = layer.forward(x, lengths=lengths, recompute=True)
    grads = layer.backward(tape, dy=y)
    ragged = layer.ragged(x[:, 0], [1, 8, 8, 57])
    stream = IndyGRU(9, 65, num_layers=2, seed=4, dtype=dtype).stream(17)
    return [y, h_n, grads.x, grads.h0, *grads.parameters.values(), *ragged, stream.push_many(x), stream.push(x[0])]


for dtype in helpers.DTYPES:
    for shape in json.loads(sys.argv[1]):
        print(digest(helpers.random_case(shape, dtype, ragged=shape[1] > 2).run().values()))
    print(digest(stack_results(dtype)))
