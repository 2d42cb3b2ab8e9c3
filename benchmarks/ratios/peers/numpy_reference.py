"""`indygru_cpu.reference`: one NumPy expression for each equation, a Python loop over the steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from cases import Case

from indygru_cpu import reference


def forward(case: Case) -> Callable[[], Any]:
    return lambda: reference.forward(case.x, case.h0, *case.weights)[0]


def training(case: Case) -> Callable[[], Any]:
    dh_n = np.zeros_like(case.h0)
    return lambda: reference.backward(reference.forward(case.x, case.h0, *case.weights)[2], case.dy, dh_n)
