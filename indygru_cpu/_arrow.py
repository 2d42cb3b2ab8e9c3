"""Sequences in columns of Arrow lists: run where they lie, by their offsets; what comes of them is made a column again.

An array is what pyarrow calls one; its type tells how the numbers of a row are cut into steps.
"""

from __future__ import annotations

import copy
from typing import Any

import numpy as np

try:
    import pyarrow as pa
    import pyarrow.types as types
except ImportError as error:
    raise ImportError(f'needs pyarrow ({error}): pip install "indygru_cpu[spark]" or "indygru_cpu[ray]"') from error

from indygru_cpu._engine import checks as check
from indygru_cpu._engine.messages import shortened
from indygru_cpu._typing import Array
from indygru_cpu.layer import IndyGRU

#: Offsets of Spark's lists, and of most others, are int32.
MOST_NUMBERS = 2**31 - 1


class Run:
    """A layer and how it is to be run, as it goes to the workers: the caller's later changes do not reach it."""

    def __init__(self, layer: IndyGRU, last: bool, num_threads: int) -> None:
        if not isinstance(layer, IndyGRU):
            raise TypeError(f"layer: expected an IndyGRU, got {type(layer).__name__}")
        self.layer, self.last = copy.deepcopy(layer), bool(last)
        self.num_threads = check.integer(num_threads, "num_threads", 1)

    def __call__(self, name: str, column: Any) -> tuple[Array, Array]:
        """Rows of y, or h_n layer by layer: (S, N or 2N), and where each sequence's begin and end, (B + 1,)."""
        values, offsets = sequences(name, column, self.layer.input_size, self.layer.dtype)
        y, h_n = self.layer.ragged(values, offsets, num_threads=self.num_threads)[:2]
        if not self.last:
            return y, offsets
        states, n_batch, n_units = h_n.shape
        return h_n.swapaxes(0, 1).reshape(-1, n_units), np.arange(0, states * n_batch + 1, states)


def sequences(name: str, column: Any, input_size: int, dtype: np.dtype[Any]) -> tuple[Array, Array]:
    """Views of an array's memory: the steps of all rows, (S, D), and offsets, (B + 1,).

    A row is a list of steps, which are lists of D numbers, or one list of the numbers of all its steps.
    """
    steps, offsets = _opened(name, column)
    if _is_list(steps.type):
        numbers, ends = _opened(f"a sequence of {name}", steps)
        widths = np.diff(ends)
        _refuse(f"{name}: expected steps of {input_size} numbers, got one of", widths, widths != input_size)
    else:
        numbers, widths, offsets = steps, np.diff(offsets), offsets // input_size
        _refuse(f"{name}: expected rows of {input_size} numbers a step, got one of", widths, widths % input_size > 0)
    if numbers.type != pa.from_numpy_dtype(dtype):
        raise TypeError(f"{name}: expected lists of {dtype.name}, as the layer has, got {shortened(column.type)}")
    _refuse_nulls(f"the numbers of {name}", numbers)
    return numbers.to_numpy().reshape(-1, input_size), offsets


def _is_list(kind: Any) -> bool:
    return types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)


def _refuse(text: str, counts: Array, wrong: Array) -> None:
    if wrong.any():
        raise ValueError(f"{text} {counts[wrong][0]}")


def _refuse_nulls(name: str, array: Any) -> None:
    if array.null_count:
        raise ValueError(f"{name}: expected no nulls, got {array.null_count}: fill or drop them")


def _opened(name: str, array: Any) -> tuple[Any, Array]:
    """What is in the lists of an array, which may be a part of a longer one, and where each begins and ends."""
    if not _is_list(array.type):
        raise TypeError(f"{name}: expected lists, got {shortened(array.type)}")
    _refuse_nulls(name, array)
    if types.is_fixed_size_list(array.type):
        return array.flatten(), np.arange(len(array) + 1) * array.type.list_size
    offsets = array.offsets.to_numpy() if len(array) else np.zeros(1, np.intp)
    first, last = int(offsets[0]), int(offsets[-1])
    return array.values.slice(first, last - first), offsets - first


def lists(values: Array, offsets: Array) -> Any:
    """Rows as lists of lists of numbers, in the memory of the values."""
    if values.size > MOST_NUMBERS:
        text = f"expected a batch with at most {MOST_NUMBERS} numbers of results, got {values.size}: make it smaller"
        raise ValueError(text)
    ends = np.arange(0, values.size + 1, values.shape[1], dtype=np.int32)
    steps = pa.ListArray.from_arrays(ends, pa.array(values.ravel()))
    return pa.ListArray.from_arrays(offsets.astype(np.int32), steps)


def with_states(run: Run, batch: Any, column: str, output: str) -> Any:
    """A record batch with a column more; all others are as they were."""
    states = lists(*run(column, batch.column(column)))
    return pa.RecordBatch.from_arrays([*batch.columns, states], names=[*batch.schema.names, output])
