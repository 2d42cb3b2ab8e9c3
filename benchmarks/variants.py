"""Layers of a case without a reset gate, with its weights of the other gates."""

from __future__ import annotations

from typing import Any

import numpy as np
from cases import Case

from indygru_cpu import IndyGRU


def make_without_reset_gate(case: Case, **options: Any) -> IndyGRU:
    """A layer with two gates, r = 1."""
    layer = IndyGRU(*case.shape[2:], dtype=case.dtype, num_threads=case.threads, reset_gate=False, **options)
    n_units = case.shape[3]
    layer.parameters.update({
        name: np.ascontiguousarray(weights[..., n_units:])
        for name, weights in zip(layer.parameters, case.weights, strict=True)
    })  # fmt: skip
    return layer


def make_mingru(case: Case) -> IndyGRU:
    """minGRU: no reset gate, no recurrent weights, and its own activation."""
    layer = make_without_reset_gate(case, activation="mingru")
    layer.parameters["recurrent_kernel_l0"][...] = 0
    return layer
