"""Sequences of different lengths in one array, and the validation of X."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.utils import check_array

from indygru_cpu._engine import checks as check
from indygru_cpu._typing import Array

_X_FORMS = "(n, T, D), a list of arrays (T, D), or a tuple (values (S, D), offsets (n + 1,))"


@dataclass(frozen=True, eq=False)
class RaggedBatch:
    """Concatenated sequences. Sequence i is ``values[offsets[i]:offsets[i + 1]]``; offsets[0] is 0; none is empty."""

    values: Array  # (S, width)
    offsets: Array  # (B + 1,)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> Array:
        return np.diff(self.offsets)

    def select(self, rows: Array) -> RaggedBatch:
        """Copy some of the sequences, by index."""
        lengths = self.lengths[rows]
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        shifts = np.repeat(self.offsets[rows] - offsets[:-1], lengths)
        return RaggedBatch(self.values[shifts + np.arange(offsets[-1])], offsets)


def validated_batch(X: Any) -> RaggedBatch:
    """Validate X and return its sequences, as a view where possible. float32 is kept; other numbers become float64."""
    if isinstance(X, tuple) and len(X) == 2 and np.ndim(X[1]) == 1:
        return _from_offsets(*X)
    if isinstance(X, (list, tuple)) or (isinstance(X, np.ndarray) and X.dtype == object and X.ndim == 1):
        return _from_list(X)
    array = _validated_numbers(X)
    if array.ndim != 3:
        hint = ". One sequence (T, D) is X[None]; n series of one number a step are X[:, :, None]" * (array.ndim == 2)
        raise ValueError(f"X: expected {_X_FORMS}, got shape {array.shape}. Reshape your data{hint}")
    n, steps, width = array.shape
    if n and not steps:
        raise ValueError(f"X: expected at least one step per sequence, got shape {array.shape}")
    return _nonempty_batch(array.reshape(n * steps, width), np.arange(n + 1) * steps)


def _from_offsets(values: Any, offsets: Any) -> RaggedBatch:
    array = _validated_numbers(values)
    if array.ndim != 2:
        raise ValueError(f"X: expected values of shape (S, D) beside offsets, got {array.shape}")
    offsets = check.offsets("X: offsets", offsets, len(array))
    empty = np.flatnonzero(np.diff(offsets) == 0)
    if len(empty):
        raise ValueError(f"X: expected at least one step per sequence, got none in sequence {empty[0]}")
    return _nonempty_batch(array[offsets[0] : offsets[-1]], offsets - offsets[0])


def _from_list(X: Any) -> RaggedBatch:
    sequences = [np.asarray(sequence) for sequence in X]
    for i, sequence in enumerate(sequences):
        width = sequences[0].shape[-1] if sequences[0].ndim == 2 else "D"
        if sequence.ndim != 2 or sequence.shape[1] != width:
            raise ValueError(f"X[{i}]: expected shape (T, {width}), got {sequence.shape}. X is {_X_FORMS}")
        if not len(sequence):
            raise ValueError(f"X[{i}]: expected at least one step, got shape {sequence.shape}")
    if {np.dtype(np.float32), np.dtype(np.float64)} <= {sequence.dtype for sequence in sequences}:
        raise TypeError(
            "X: expected sequences of one dtype, got float32 and float64: dtypes are never mixed; cast the sequences"
        )
    offsets = np.cumsum([0, *map(len, sequences)])
    return _nonempty_batch(_validated_numbers(np.concatenate(sequences) if sequences else np.empty((0, 1))), offsets)


def _validated_numbers(X: Any) -> Array:
    """Return a C-contiguous array of finite float32 or float64. Other numbers become float64, as in scikit-learn."""
    array: Array = check_array(
        X, dtype=(np.float64, np.float32), order="C", ensure_2d=False, allow_nd=True, ensure_min_samples=0,
        input_name="X",
    )  # fmt: skip
    return array


def _nonempty_batch(values: Array, offsets: Array) -> RaggedBatch:
    """Make a batch, or raise scikit-learn's error for no sequences or no features."""
    check_array(values, dtype=None, ensure_all_finite=False)
    return RaggedBatch(values, offsets)
