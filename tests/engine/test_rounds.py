"""Tiles of forward run in laps, and threads take turns at them."""

from __future__ import annotations

import helpers
import numpy as np
import pytest

from indygru_cpu import IndyGRU
from indygru_cpu._engine import _core

#: Several tiles of several laps, whose weights are packed for all: (T, B, D, N).
SHAPE = (300, 33, 7, 257)


@pytest.mark.parametrize("seconds", [0, 0.05])
@pytest.mark.parametrize("num_threads", [1, 2, 3, 8])
def test_any_number_of_threads_ends_every_tile(num_threads, seconds):
    """Also where a round ends after each lap, so that a tile passes from thread to thread."""
    n_steps, n_batch, n_inputs, n_units = SHAPE
    layer = IndyGRU(n_inputs, n_units, seed=0)
    x = np.random.default_rng(0).standard_normal((n_steps, n_batch, n_inputs), dtype=np.float32)
    lengths = np.random.default_rng(1).integers(0, n_steps + 1, n_batch)
    expected = layer(x, lengths=lengths, num_threads=1)
    before = _core.testing.set_slice_seconds(seconds)
    try:
        found = layer(x, lengths=lengths, num_threads=num_threads)
    finally:
        _core.testing.set_slice_seconds(before)
    for a, b in zip(found, expected, strict=True):
        helpers.assert_same_bits(a, b)
