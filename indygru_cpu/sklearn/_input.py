"""Sequences as users of scikit-learn have them, checked by scikit-learn, in one form."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.utils import check_array

from indygru_cpu._engine import checks as check
from indygru_cpu._typing import Array
from indygru_cpu.sklearn._pooling import Ragged

FORMS = "(n, T, D), a list of arrays (T, D), or a tuple (values (S, D), offsets (n + 1,))"


def read(X: Any) -> Ragged:
    """The sequences of X, in float32 if it is that, else in float64; a view of it where there is one."""
    if isinstance(X, tuple) and len(X) == 2 and np.ndim(X[1]) == 1:
        return _from_offsets(*X)
    if isinstance(X, (list, tuple)) or (isinstance(X, np.ndarray) and X.dtype == object and X.ndim == 1):
        return _from_list(X)
    found = _numbers(X)
    if found.ndim != 3:
        one = ". One sequence (T, D) is X[None]; n series of one number a step are X[:, :, None]" * (found.ndim == 2)
        raise ValueError(f"X: expected {FORMS}, got shape {found.shape}. Reshape your data{one}")
    n, steps, width = found.shape
    if n and not steps:
        raise ValueError(f"X: expected at least one step a sequence, got shape {found.shape}")
    return _checked(found.reshape(n * steps, width), np.arange(n + 1) * steps)


def _from_offsets(values: Any, offsets: Any) -> Ragged:
    found = _numbers(values)
    if found.ndim != 2:
        raise ValueError(f"X: expected values of shape (S, D) beside offsets, got {found.shape}")
    offsets = check.offsets("X: offsets", offsets, len(found))
    empty = np.flatnonzero(np.diff(offsets) == 0)
    if len(empty):
        raise ValueError(f"X: expected at least one step a sequence, got none in sequence {empty[0]}")
    return _checked(found[offsets[0] : offsets[-1]], offsets - offsets[0])


def _from_list(X: Any) -> Ragged:
    sequences = [np.asarray(each) for each in X]
    for i, each in enumerate(sequences):
        width = sequences[0].shape[-1] if sequences[0].ndim == 2 else "D"
        if each.ndim != 2 or each.shape[1] != width:
            raise ValueError(f"X[{i}]: expected shape (T, {width}), got {each.shape}. X is {FORMS}")
        if not len(each):
            raise ValueError(f"X[{i}]: expected at least one step, got shape {each.shape}")
    if {np.dtype(np.float32), np.dtype(np.float64)} <= {each.dtype for each in sequences}:
        raise TypeError("X: some sequences are float32, others float64: dtypes are never mixed; cast them")
    offsets = np.cumsum([0, *map(len, sequences)])
    return _checked(_numbers(np.concatenate(sequences) if sequences else np.empty((0, 1))), offsets)


def _numbers(X: Any) -> Array:
    """Finite float32 or float64, what else is a number becoming float64, as everywhere in scikit-learn."""
    found: Array = check_array(
        X, dtype=(np.float64, np.float32), order="C", ensure_2d=False, allow_nd=True, ensure_min_samples=0,
        input_name="X",
    )  # fmt: skip
    return found


def _checked(values: Array, offsets: Array) -> Ragged:
    """At least one sequence of at least one feature, or scikit-learn's error."""
    check_array(values, dtype=None, ensure_all_finite=False)
    return Ragged(values, offsets)
