"""Layers and sequences of the tests of the bridges to Dask, Ray and Spark."""

from __future__ import annotations

import numpy as np

from indygru_cpu import IndyGRU

#: Inputs and units.
D, N = 9, 7
LENGTHS = [8, 1, 0, 33, 17]


def bridge_layer(dtype=np.float32, seed=3, **options):
    return IndyGRU(D, N, dtype=dtype, seed=seed, reproducible=True, **options)


def random_rows(lengths=LENGTHS, dtype=np.float32):
    """Sequences (T, D) of the given lengths."""
    rng = np.random.default_rng(1)
    return [rng.standard_normal((n, D)).astype(dtype) for n in lengths]
