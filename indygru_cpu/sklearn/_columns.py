"""Sequences in data frames and columns of pandas, polars and Arrow."""

from __future__ import annotations

from typing import Any

import numpy as np

from indygru_cpu._engine.messages import shown


def read_column(X: Any) -> Any:
    """Return the sequences of a column as a list or as a tuple (values, offsets), and any other X unchanged."""
    if getattr(X, "ndim", None) == 1 and hasattr(X, "iloc"):  # a Series of pandas
        return _read_arrow(X.array) if hasattr(X.dtype, "pyarrow_dtype") else X.tolist()
    if hasattr(X, "to_arrow") and hasattr(X, "to_list"):  # a Series of polars
        return _read_arrow(X) if X.dtype.is_nested() else X.to_list()
    has_arrow_data = hasattr(X, "__arrow_c_array__") or hasattr(X, "__arrow_c_stream__")
    if has_arrow_data and not hasattr(X, "columns"):  # tables and data frames are no columns
        return _read_arrow(X)
    return X


def _read_arrow(X: Any) -> Any:
    from indygru_cpu._arrow import read_steps

    return read_steps("X", X)


def is_values_and_offsets(X: Any) -> bool:
    """Return whether X is a tuple (values, offsets), rather than two sequences."""
    return isinstance(X, tuple) and len(X) == 2 and np.ndim(X[1]) == 1


def find_data_frame(X: Any) -> Any:
    """Return the data frame whose columns name the inputs of all sequences, or None."""
    if is_values_and_offsets(X):
        return X[0] if hasattr(X[0], "columns") else None
    if not isinstance(X, (list, tuple)):
        return None
    columns = [list(sequence.columns) if hasattr(sequence, "columns") else None for sequence in X]
    for i, names in enumerate(columns):
        if names != columns[0]:
            raise ValueError(
                f"X[{i}]: expected the columns of X[0], {shown(columns[0])}, got {shown(names)}: select the same "
                "columns in the same order, or pass arrays only"
            )
    return X[0] if columns and columns[0] is not None else None
