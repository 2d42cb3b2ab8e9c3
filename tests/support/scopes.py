"""Helpers of the tests of scopes: cells after their first use, a check for shared variables, error patterns."""

from __future__ import annotations

import numpy as np

from indygru_cpu import IndyGRUCell

X = np.random.default_rng(3).normal(size=(3, 5))
H = np.random.default_rng(4).normal(size=(3, 7))
ALREADY_EXISTS = r"Variable {}/gates/kernel_w already exists, disallowed\. Did you mean to set reuse=True or reuse=tf"
DOES_NOT_EXIST = (
    r"Variable {}/gates/kernel_w does not exist, or was not created with tf\.get_variable\(\)\. Did you mean"
)


def used_cell(name=None, reuse=None, scope=None, num_units=7):
    """Construct a cell and run one step."""
    cell = IndyGRUCell(num_units, name=name, reuse=reuse)
    cell(X, H[:, :num_units], scope=scope)
    return cell


def share_variables(a, b):
    """Return whether two cells have the same variables."""
    return all(p.value is q.value for p, q in zip(a.variables, b.variables, strict=True))
