"""Callers in a pool whose calls do not overlap choose two threads, as one caller would."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from indygru_cpu._engine import _core

with ThreadPoolExecutor(4) as pool:
    choices = [
        pool.submit(_core.testing.choose_threads, 0, 2e6, 50, 2, False, {1: 9e5, 2: 5e5}).result() for _ in range(400)
    ]
print(choices.count(2) > 300)
