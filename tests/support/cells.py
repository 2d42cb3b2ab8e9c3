"""Fixtures and helpers of the cell's tests: a reset default scope, random numbers, variable names, built cells.

A test file imports a fixture by assignment: `rng = cells.rng`.
"""

from __future__ import annotations

import numpy as np
import pytest

from indygru_cpu import IndyGRUCell, reset_default_scope

#: Sizes of the sequences and of the cell in `sequence_case`.
B, T, D, N = 8, 9, 5, 7
VARIABLE_NAMES = [
    "gates/kernel_w",
    "gates/kernel_u",
    "gates/bias",
    "candidate/kernel",
    "candidate/kernel_u",
    "candidate/bias",
]


@pytest.fixture(autouse=True)
def rng():
    """Reset the default scope with a seed, and return a random generator."""
    reset_default_scope(seed=11)
    return np.random.default_rng(5)


@pytest.fixture
def sequence_case(rng):
    """Return a cell, inputs, lengths and an initial state."""
    cell = IndyGRUCell(N, "relu", dtype="float64")
    cell.build((None, D))
    cell.set_weights([rng.normal(size=v.shape) for v in cell.variables])
    lengths = np.array([9, 0, 1, 5, 3, 8, 9, 2])
    return cell, rng.normal(size=(B, T, D)), lengths, rng.normal(size=(B, N))


def built_cell(*args, depth=5, **kwargs):
    """Construct and build a cell."""
    cell = IndyGRUCell(*args, **kwargs)
    cell.build((None, depth))
    return cell
