"""Arrow list columns: their sequences without a copy, and inference for the bridges to Ray and Spark.

"Array" in this module's texts is a pyarrow.Array, whose type defines how the numbers of a row are split into steps.
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
from indygru_cpu.layer import IndyGRU, checked_layer

#: Offsets of Spark's lists, and of most other lists, are int32.
MAX_NUMBERS = 2**31 - 1


class LayerRunner:
    """A copy of a layer with its inference options, as workers receive it.

    Parameters
    ----------
    layer : IndyGRU
        The layer. Later changes of its weights do not affect the copy.
    last : bool
        Whether the result is h_n instead of y.
    num_threads : int
        Threads of each call.
    """

    def __init__(self, layer: IndyGRU, last: bool, num_threads: int) -> None:
        self.layer, self.last = copy.deepcopy(checked_layer(layer)), bool(last)
        self.num_threads = check.integer(num_threads, "num_threads", 1)

    def __call__(self, name: str, column: Any) -> tuple[Array, Array]:
        """Return the states of all sequences, (S, N or 2N), and the offsets of each sequence's states, (B + 1,)."""
        values, offsets = read_sequences(name, column, self.layer.input_size, self.layer.dtype)
        y, h_n = self.layer.ragged(values, offsets, num_threads=self.num_threads)[:2]
        if not self.last:
            return y, offsets
        n_states, n_batch, n_units = h_n.shape
        return h_n.swapaxes(0, 1).reshape(-1, n_units), np.arange(0, n_states * n_batch + 1, n_states)


def read_sequences(name: str, column: Any, input_size: int, dtype: np.dtype[Any]) -> tuple[Array, Array]:
    """Return views of an array's memory: the steps of all rows, (S, D), and the rows' offsets, (B + 1,).

    A row is a list of steps, each a list of D numbers, or one list of the numbers of all its steps.
    """
    steps, offsets = _flatten_lists(name, column)
    if _is_list(steps.type):
        numbers = _flatten_steps(name, steps, input_size)[0]
    else:
        numbers, widths, offsets = steps, np.diff(offsets), offsets // input_size
        _refuse_widths(f"{name}: expected rows of {input_size} numbers per step", widths, widths % input_size > 0)
    if numbers.type != pa.from_numpy_dtype(dtype):
        raise TypeError(f"{name}: expected lists of {dtype.name}, the layer's dtype, got {shortened(column.type)}")
    _refuse_nulls(f"the numbers of {name}", numbers)
    return numbers.to_numpy().reshape(-1, input_size), offsets


def read_steps(name: str, column: Any) -> tuple[Array, Array]:
    """Return the steps of all rows, (S, D), of numbers of any type, and the rows' offsets, (B + 1,).

    `column` is an array, chunks of one, or an object that exports them. A row is a list of steps, each a list of D
    numbers, where D is the number of those in the first step.
    """
    steps, offsets = _flatten_lists(name, _import_array(column))
    numbers, input_size = _flatten_steps(name, steps, None)
    _refuse_nulls(f"the numbers of {name}", numbers)
    return numbers.to_numpy(zero_copy_only=False).reshape(-1, input_size), offsets


def _import_array(column: Any) -> Any:
    if hasattr(column, "to_arrow"):  # a Series of polars
        column = column.to_arrow()
    elif hasattr(column, "__arrow_array__") or hasattr(column, "__arrow_c_array__"):
        column = pa.array(column)
    elif not isinstance(column, pa.ChunkedArray):
        column = pa.chunked_array(column)  # an object with the C stream interface
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column


def _flatten_steps(name: str, steps: Any, input_size: int | None) -> tuple[Any, int]:
    """Return the numbers of an array of steps, and how many a step has, which is that of the first one if None."""
    numbers, step_offsets = _flatten_lists(f"a sequence of {name}", steps)
    widths = np.diff(step_offsets)
    if input_size is None:
        input_size = int(widths[0]) if len(widths) else 1
    _refuse_widths(f"{name}: expected steps of {input_size} numbers", widths, widths != input_size)
    return numbers, input_size


def _is_list(kind: Any) -> bool:
    return types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)


def _refuse_widths(text: str, widths: Array, is_wrong: Array) -> None:
    if is_wrong.any():
        raise ValueError(f"{text}, got one of {widths[is_wrong][0]}")


def _refuse_nulls(name: str, array: Any) -> None:
    if array.null_count:
        raise ValueError(f"{name}: expected no nulls, got {array.null_count}: fill or drop them")


def _flatten_lists(name: str, array: Any) -> tuple[Any, Array]:
    """Return the items of all lists of an array, which may be a slice of another array, and the lists' offsets."""
    if not _is_list(array.type):
        raise TypeError(f"{name}: expected lists, got {shortened(array.type)}")
    _refuse_nulls(name, array)
    if types.is_fixed_size_list(array.type):
        return array.flatten(), np.arange(len(array) + 1) * array.type.list_size
    offsets = array.offsets.to_numpy() if len(array) else np.zeros(1, np.intp)
    first, last = int(offsets[0]), int(offsets[-1])
    return array.values.slice(first, last - first), offsets - first


def make_lists(values: Array, offsets: Array) -> Any:
    """Make an array of lists of lists of numbers that shares the memory of `values`."""
    if values.size > MAX_NUMBERS:
        raise ValueError(
            f"results: expected at most {MAX_NUMBERS} numbers per batch, got {values.size}: reduce its size"
        )
    step_offsets = np.arange(0, values.size + 1, values.shape[1], dtype=np.int32)
    steps = pa.ListArray.from_arrays(step_offsets, pa.array(values.ravel()))
    return pa.ListArray.from_arrays(offsets.astype(np.int32), steps)


def append_states(runner: LayerRunner, batch: Any, column: str, output: str) -> Any:
    """Return a record batch with the states of `column` as the additional column `output`."""
    states = make_lists(*runner(column, batch.column(column)))
    return pa.RecordBatch.from_arrays([*batch.columns, states], names=[*batch.schema.names, output])
