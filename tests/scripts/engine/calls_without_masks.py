"""Calls are right where the system has no processor masks (no_affinity.c). Prints the caller's processor, -1."""

from __future__ import annotations

import time

from affinity_masks import layer, x

from indygru_cpu._engine import _core

expected = layer(x, num_threads=1)[0].tobytes()
for _ in range(5):
    time.sleep(0.002)
    assert layer(x, num_threads=3)[0].tobytes() == layer(x)[0].tobytes() == expected
print(_core.testing.current_cpu())
