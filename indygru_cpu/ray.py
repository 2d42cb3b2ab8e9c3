"""Inference on Ray Datasets: actors hold the layer and run it on Arrow blocks in Ray's shared memory.

This module requires the extra `ray`: ``pip install "indygru_cpu[ray]"``. See ``docs/ray.md``.
"""

from __future__ import annotations

from typing import Any

import numpy as np

try:
    import pyarrow as pa
    import pyarrow.types as types
    import ray.data
    from ray.data.extensions import ArrowTensorArray, ArrowVariableShapedTensorArray
except ImportError as error:
    raise ImportError(f'needs Ray and its data library ({error}): pip install "indygru_cpu[ray]"') from error

from indygru_cpu._arrow import LayerRunner, make_lists
from indygru_cpu._engine import checks as check
from indygru_cpu._engine.messages import shortened, shown
from indygru_cpu.layer import IndyGRU

__all__ = ["predict"]


def predict(
    layer: IndyGRU,
    dataset: Any,
    column: str = "x",
    *,
    output: str = "y",
    last: bool = False,
    num_threads: int = 1,
    **options: Any,
) -> Any:
    """Run a layer lazily over a column of sequences, and append the results as a column.

    Parameters
    ----------
    layer : IndyGRU
        The layer. Later changes of its weights have no effect.
    dataset : ray.data.Dataset
        A dataset with one sequence per row.
    column : str
        Name of the column of sequences: arrays (T, D) of equal or different T; Arrow lists of lists of D numbers; or
        lists of the numbers of all steps. All have the layer's dtype. Nulls are refused.
    output : str
        Name of the new column.
    last : bool
        Return h_n instead of y.
    num_threads : int
        Threads of each actor, and the CPUs (`num_cpus`) that Ray reserves for it.
    **options
        Options of `ray.data.Dataset.map_batches` [1]_, such as ``compute=ray.data.ActorPoolStrategy(size=4)`` for four
        actors (by default Ray scales the pool to the CPUs), and ``batch_size`` for the rows of a call.

    Returns
    -------
    ray.data.Dataset
        All columns of `dataset`, and `output`: y as arrays (T, N), or (T, 2N) if bidirectional, or as lists if
        `column` has lists; or h_n as arrays (layers * directions, N).

    Raises
    ------
    TypeError
        `layer` is not an IndyGRU, or `dataset` is not a Dataset.
    ValueError
        `num_threads` is less than 1. Wrong columns raise when Ray computes them.

    Notes
    -----
    With ``reproducible=True``, the bits of a row do not depend on how the dataset is split into blocks.

    References
    ----------
    .. [1] https://docs.ray.io/en/latest/data/api/doc/ray.data.Dataset.map_batches.html
    """
    if not isinstance(dataset, ray.data.Dataset):
        raise TypeError(f"dataset: expected a ray.data.Dataset, got {type(dataset).__name__}")
    runner = LayerRunner(layer, last, num_threads)
    if not {"compute", "concurrency"} & options.keys():
        options["compute"] = ray.data.ActorPoolStrategy()
    return dataset.map_batches(
        Actor, fn_constructor_args=(runner, column, output), batch_format="pyarrow",
        num_cpus=runner.num_threads, **options,
    )  # fmt: skip


class Actor:
    """Holds a layer, and appends its results to each table."""

    def __init__(self, runner: LayerRunner, column: str, output: str) -> None:
        self.runner, self.column, self.output = runner, column, output

    def __call__(self, table: Any) -> Any:
        """Return the table with an additional column."""
        names = table.column_names
        if self.column not in names:
            raise ValueError(f"column: expected one of {shortened(', '.join(names), 500)}, got {shown(self.column)}")
        if self.output in names:
            raise ValueError(f"output: expected the name of a new column, got {shown(self.output)}")
        sequences = table.column(self.column)
        states = [self._states(chunk) for chunk in sequences.chunks or [sequences.combine_chunks()]]
        return table.append_column(self.output, pa.chunked_array(states))

    def _states(self, chunk: Any) -> Any:
        layer = self.runner.layer
        values, offsets = self.runner(self.column, _storage_lists(self.column, chunk, layer.input_size))
        if self.runner.last:
            shape = len(chunk), layer.num_layers * (1 + layer.bidirectional), layer.hidden_size
            return ArrowTensorArray.from_numpy(values.reshape(shape))
        if not isinstance(chunk, pa.ExtensionArray):
            return make_lists(values, offsets)
        if _has_one_shape(chunk):
            return ArrowTensorArray.from_numpy(values.reshape(len(chunk), chunk.type.shape[0], values.shape[1]))
        # For no rows, Ray requires at least one array, which the slice removes.
        return ArrowVariableShapedTensorArray.from_numpy(np.split(values, offsets[1:-1])).slice(0, len(chunk))


def _has_one_shape(tensors: Any) -> bool:
    return not types.is_struct(tensors.storage.type)


def _storage_lists(name: str, chunk: Any, input_size: int) -> Any:
    """Return the lists in which Ray stores arrays, after a check of the arrays' shapes."""
    if not isinstance(chunk, pa.ExtensionArray):
        return chunk
    if _has_one_shape(chunk):
        check.check_shape(name, chunk.type.shape, ("T", input_size))
        return chunk.storage
    for shape in chunk.storage.field("shape").to_pylist():
        check.check_shape(name, tuple(shape), ("T", input_size))
    return chunk.storage.field("data")
