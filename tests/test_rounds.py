"""Tiles of forward run in laps, threads take turns at them, and helpers leave the caller's processor."""

from __future__ import annotations

import os
import threading

import helpers
import numpy as np
import pytest

from indygru_cpu import IndyGRU, _core

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
    before = _core.set_seconds_of_a_round(seconds)
    try:
        found = layer(x, lengths=lengths, num_threads=num_threads)
    finally:
        _core.set_seconds_of_a_round(before)
    for a, b in zip(found, expected, strict=True):
        helpers.assert_same_bits(a, b)


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity") or len(os.sched_getaffinity(0)) < 2, reason="one processor")
def test_a_helper_on_the_callers_processor_leaves_it():
    """It moves, and may run afterwards wherever it might before: also back, which is the system's choice."""
    found = {}

    def move():
        for processor in sorted(allowed):
            for _ in range(100):
                os.sched_setaffinity(0, {processor})
                os.sched_setaffinity(0, allowed)
                _core.step_aside(processor)
                found[processor] = _core.processor(), os.sched_getaffinity(0)
                if found[processor][0] != processor:
                    break

    allowed = os.sched_getaffinity(0)
    thread = threading.Thread(target=move)
    thread.start()
    thread.join()
    assert set(found) == allowed
    for processor, (now, may_run_on) in found.items():
        assert now in allowed - {processor}
        assert may_run_on == allowed
