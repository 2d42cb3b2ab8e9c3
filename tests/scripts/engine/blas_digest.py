"""Digest of gradients that BLAS computes, and the path and the prefix of the library that computes them."""

from __future__ import annotations

import hashlib

import numpy as np

from indygru_cpu import IndyGRU
from indygru_cpu._engine import blas

digest = hashlib.sha256()
for dtype in (np.float32, np.float64):
    layer = IndyGRU(9, 17, dtype=dtype, seed=5)
    y, _, tape = layer.forward(np.random.default_rng(5).standard_normal((33, 8, 9)).astype(dtype))
    grads = layer.backward(tape, y)
    digest.update(grads.x.tobytes() + grads.parameters["kernel_l0"].tobytes())
print(digest.hexdigest(), blas.blas.path, repr(blas.blas.prefix), sep="|")
