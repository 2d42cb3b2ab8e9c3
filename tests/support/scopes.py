"""What the tests of names and scopes share: cells at their first use, what they share, and what is said of a name."""

from __future__ import annotations

import numpy as np

from indygru_cpu import IndyGRUCell

X = np.random.default_rng(3).normal(size=(3, 5))
H = np.random.default_rng(4).normal(size=(3, 7))
EXISTS = r"Variable {}/gates/kernel_w already exists, disallowed\. Did you mean to set reuse=True or reuse=tf"
MISSING = r"Variable {}/gates/kernel_w does not exist, or was not created with tf\.get_variable\(\)\. Did you mean"


def used(name=None, reuse=None, scope=None, num_units=7):
    cell = IndyGRUCell(num_units, name=name, reuse=reuse)
    cell(X, H[:, :num_units], scope=scope)
    return cell


def shares(a, b):
    return all(p.value is q.value for p, q in zip(a.variables, b.variables, strict=True))
