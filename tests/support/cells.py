"""What the tests of the cell share: a fresh default scope and random numbers, names of the variables, sequences.

A test file takes a fixture of these by its name: `rng = cells.rng`.
"""

from __future__ import annotations

import numpy as np
import pytest

from indygru_cpu import IndyGRUCell, reset_default_scope

#: Of sequences and of the cell that they are for.
B, T, D, N = 8, 9, 5, 7
NAMES = [
    "gates/kernel_w",
    "gates/kernel_u",
    "gates/bias",
    "candidate/kernel",
    "candidate/kernel_u",
    "candidate/bias",
]


@pytest.fixture(autouse=True)
def rng():
    """Random numbers; the default scope is as in a new process, and seeded."""
    reset_default_scope(seed=11)
    return np.random.default_rng(5)


@pytest.fixture
def case(rng):
    """Return a cell, inputs, lengths and an initial state."""
    cell = IndyGRUCell(N, "relu", dtype="float64")
    cell.build((None, D))
    cell.set_weights([rng.normal(size=v.shape) for v in cell.variables])
    lengths = np.array([9, 0, 1, 5, 3, 8, 9, 2])
    return cell, rng.normal(size=(B, T, D)), lengths, rng.normal(size=(B, N))


def built(*args, depth=5, **kwargs):
    cell = IndyGRUCell(*args, **kwargs)
    cell.build((None, depth))
    return cell
