"""Sequences of different lengths in one array, and the validation of X."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.utils import check_array

from indygru_cpu._engine import checks as check
from indygru_cpu._typing import Array
from indygru_cpu.sklearn._columns import is_values_and_offsets

_X_FORMS = "(n, T, D), a list or column of arrays (T, D), or a tuple (values (S, D), offsets (n + 1,))"


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

    def batches(self, max_steps: int) -> Iterator[RaggedBatch]:
        """Yield views of successive sequences: as many as have at most `max_steps` steps together, but at least one."""
        first = 0
        while first < len(self):
            start = self.offsets[first]
            last = int(np.searchsorted(self.offsets, start + max_steps, side="right")) - 1
            last = max(last, first + 1)
            yield RaggedBatch(self.values[start : self.offsets[last]], self.offsets[first : last + 1] - start)
            first = last


def validated_batch(X: Any, dtype: Any = None) -> RaggedBatch:
    """Validate X and return its sequences, as a view where possible.

    `dtype` None keeps float32 and converts other numbers to float64. Any other `dtype` is that of the result.
    """
    if is_values_and_offsets(X):
        values, offsets = X
        return _from_offsets(values, offsets, dtype)
    if isinstance(X, (list, tuple)) or (isinstance(X, np.ndarray) and X.dtype == object and X.ndim == 1):
        return _from_list(X, dtype)
    array = _validated_numbers(X, dtype)
    if array.ndim != 3:
        hint = ". One sequence (T, D) is X[None]; n series of one number a step are X[:, :, None]" * (array.ndim == 2)
        raise ValueError(f"X: expected {_X_FORMS}, got shape {array.shape}. Reshape your data{hint}")
    n, steps, width = array.shape
    if n and not steps:
        raise ValueError(f"X: expected at least one step per sequence, got shape {array.shape}")
    return _nonempty_batch(array.reshape(n * steps, width), np.arange(n + 1) * steps)


def _from_offsets(values: Any, offsets: Any, dtype: Any) -> RaggedBatch:
    if hasattr(values, "columns"):
        values = np.asarray(values)  # check_array would convert float32 in data frames of polars to float64
    array = _validated_numbers(values, dtype)
    if array.ndim != 2:
        raise ValueError(f"X: expected values of shape (S, D) beside offsets, got {array.shape}")
    _refuse_lengths(np.asarray(offsets), len(array))
    offsets = check.offsets("X: offsets", offsets, len(array))
    empty = np.flatnonzero(np.diff(offsets) == 0)
    if len(empty):
        raise ValueError(f"X: expected at least one step per sequence, got none in sequence {empty[0]}")
    return _nonempty_batch(array[offsets[0] : offsets[-1]], offsets - offsets[0])


def _refuse_lengths(offsets: Array, n_steps: int) -> None:
    """Raise ValueError for lengths in the place of offsets: their sum is S, and their ends are not 0 and S."""
    if offsets.dtype.kind not in "iu" or not len(offsets) or (offsets[0] == 0 and offsets[-1] == n_steps):
        return
    if offsets.sum() == n_steps:
        raise ValueError(
            f"X: expected offsets (n + 1,), from 0 to the number of steps, {n_steps}, got {len(offsets)} integers of "
            f"that sum, which look like lengths: pass (values, np.concatenate([[0], np.cumsum(lengths)]))"
        )


def _from_list(X: Any, dtype: Any) -> RaggedBatch:
    sequences = [_as_steps(i, sequence) for i, sequence in enumerate(X)]
    for i, sequence in enumerate(sequences):
        width = sequences[0].shape[-1] if sequences[0].ndim == 2 else "D"
        if sequence.ndim != 2 or sequence.shape[1] != width:
            raise ValueError(f"X[{i}]: expected shape (T, {width}), got {sequence.shape}. X is {_X_FORMS}")
        if not len(sequence):
            raise ValueError(f"X[{i}]: expected at least one step, got shape {sequence.shape}")
    if dtype is None and {np.dtype(np.float32), np.dtype(np.float64)} <= {sequence.dtype for sequence in sequences}:
        raise TypeError(
            "X: expected sequences of one dtype, got float32 and float64, of which fit takes the dtype of the weights; "
            "cast the sequences"
        )
    offsets = np.cumsum([0, *map(len, sequences)])
    values = _validated_numbers(np.concatenate(sequences) if sequences else np.empty((0, 1)), dtype)
    return _nonempty_batch(values, offsets)


def _as_steps(i: int, sequence: Any) -> Array:
    try:
        array = np.asarray(sequence)
        if array.dtype == object and array.ndim == 1 and len(array):
            array = np.stack(array.tolist())  # an array of arrays, to which pandas converts a list of lists of Arrow
    except ValueError as error:
        raise ValueError(f"X[{i}]: expected shape (T, D), got steps of different sizes ({error})") from error
    return array


def _validated_numbers(X: Any, dtype: Any) -> Array:
    """Return a C-contiguous array of finite numbers of `dtype`.

    `dtype` None keeps float32 and converts other numbers to float64, as scikit-learn does.
    """
    with np.errstate(over="ignore"):  # a number too large for float32 becomes infinity, which raises an error
        array: Array = check_array(
            X, dtype=(np.float64, np.float32) if dtype is None else dtype, order="C", ensure_2d=False, allow_nd=True,
            ensure_min_samples=0, input_name="X",
        )  # fmt: skip
    return array


def _nonempty_batch(values: Array, offsets: Array) -> RaggedBatch:
    """Make a batch, or raise scikit-learn's error for no sequences or no features."""
    check_array(values, dtype=None, ensure_all_finite=False)
    return RaggedBatch(values, offsets)
