"""Calls of a caller that traps floating-point exceptions: same bits on every tier, and the process survives."""

from __future__ import annotations

import floating_point as fp
import helpers
import numpy as np

from indygru_cpu._engine import _core

for tier in _core.tiers():
    _core.testing.use_tier(tier)
    case = helpers.random_case((9, 7, 8, 33), np.float32)
    case.x[3, 2, 5], case.x[4, 4], case.h0[1, 4] = np.inf, np.finfo(np.float32).max, -np.inf
    expected = case.run()
    with fp.Changed(fp.enable_traps):
        results = case.run()
    helpers.assert_same_bits(results, expected)
print("alive")
