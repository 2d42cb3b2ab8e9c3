"""Prints by how many bytes the peak of the resident memory grows during 50 steps in place and 50 forward passes."""

from __future__ import annotations

import numpy as np
from process_state import peak_resident_bytes

from indygru_cpu import functional

rng = np.random.default_rng(0)
x, h = rng.random((250, 2)), rng.random((250, 1000))
kernel, u = rng.random((2, 3000)), rng.random(3000)


def step():
    functional.step(x, h, kernel, u, u, out=h)


for _ in range(3):
    step()
before = peak_resident_bytes()
for _ in range(50):
    step()
    functional.forward(x[None], h, kernel, u, u, tape=True)
print(peak_resident_bytes() - before)
