"""Print the tier in use and a hash of a layer's results. An argument selects the tier after the import."""

from __future__ import annotations

import sys

import numpy as np

from indygru_cpu import IndyGRU
from indygru_cpu._engine import _core

if len(sys.argv) > 1:
    _core.testing.use_tier(sys.argv[1])
x = np.random.default_rng(0).standard_normal((33, 7, 9), np.float32)
print(_core.tier_in_use(), hash(IndyGRU(9, 17, seed=0)(x)[0].tobytes()))
