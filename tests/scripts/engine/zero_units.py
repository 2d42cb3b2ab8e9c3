"""Weights of zero units give empty arrays or a ValueError, whose text is printed. The call once crashed."""

from __future__ import annotations

import numpy as np

from indygru_cpu import functional

x, kernel, empty = np.full((4, 3, 5), 0.5), np.empty((5, 0)), np.empty(0)
try:
    y, h_n, tape = functional.forward(x, None, kernel, empty, empty, tape=True)
    gradients = functional.backward(tape)
    assert (y.shape, h_n.shape, gradients.kernel.shape) == ((4, 3, 0), (3, 0), (5, 0))
    assert gradients.x.shape == x.shape
    assert not gradients.x.any()
    functional.step(x[0], h_n, kernel, empty, empty)
except ValueError as error:
    print(error)
