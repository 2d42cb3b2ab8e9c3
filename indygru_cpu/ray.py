"""Inference on Ray's Datasets: actors that hold the layer run it on Arrow blocks, in Ray's own shared memory.

Needs the extra `ray`: ``pip install "indygru_cpu[ray]"``. ``docs/ray.md`` is its page.
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

from indygru_cpu._arrow import Run, lists
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
    """Run a layer over a column of sequences, lazily: a Dataset with a column more.

    Parameters
    ----------
    layer : IndyGRU
        Its weights are taken as they are now.
    dataset : ray.data.Dataset
        With the sequence of a row in `column`.
    column : str
        Arrays (T, D), all of one T or each of its own; or Arrow lists of lists of D numbers, or lists of the numbers of
        all steps one after the other. Of the layer's dtype, no nulls.
    output : str
        Name of the new column.
    last : bool
        Ask for h_n instead of y.
    num_threads : int
        Threads of each actor, and the processors (`num_cpus`) that Ray keeps for it.
    **options
        For `ray.data.Dataset.map_batches` [1]_: ``compute=ray.data.ActorPoolStrategy(size=4)`` for four actors, else
        Ray starts as many as it finds processors for; ``batch_size`` for the rows of a call.

    Returns
    -------
    ray.data.Dataset
        All columns of `dataset`, and y: arrays (T, N), or (T, 2N) with two directions, or lists as `column` has them;
        or h_n: arrays (layers * directions, N).

    Raises
    ------
    TypeError, ValueError
        Something else than a layer or a Dataset. What is in the columns is checked when it is computed.

    Notes
    -----
    A row has the same bits however the dataset is cut if the layer has ``reproducible=True``.

    References
    ----------
    .. [1] https://docs.ray.io/en/latest/data/api/doc/ray.data.Dataset.map_batches.html
    """
    if not isinstance(dataset, ray.data.Dataset):
        raise TypeError(f"dataset: expected a ray.data.Dataset, got {type(dataset).__name__}")
    run = Run(layer, last, num_threads)
    if not {"compute", "concurrency"} & options.keys():
        options["compute"] = ray.data.ActorPoolStrategy()
    return dataset.map_batches(
        Actor, fn_constructor_args=(run, column, output), batch_format="pyarrow",
        num_cpus=run.num_threads, **options,
    )  # fmt: skip


class Actor:
    """Holds the layer, and adds a column to each table that comes."""

    def __init__(self, run: Run, column: str, output: str) -> None:
        self.run, self.column, self.output = run, column, output

    def __call__(self, table: Any) -> Any:
        """A table with a column more; all others are as they were."""
        names = table.column_names
        if self.column not in names:
            raise ValueError(f"column: expected one of {shortened(', '.join(names), 500)}, got {shown(self.column)}")
        if self.output in names:
            raise ValueError(f"output: expected the name of no column, got {shown(self.output)}")
        given = table.column(self.column)
        states = [self._states(chunk) for chunk in given.chunks or [given.combine_chunks()]]
        return table.append_column(self.output, pa.chunked_array(states))

    def _states(self, chunk: Any) -> Any:
        layer = self.run.layer
        values, offsets = self.run(self.column, _lists_of(self.column, chunk, layer.input_size))
        if self.run.last:
            shape = len(chunk), layer.num_layers * (1 + layer.bidirectional), layer.hidden_size
            return ArrowTensorArray.from_numpy(values.reshape(shape))
        if not isinstance(chunk, pa.ExtensionArray):
            return lists(values, offsets)
        if _is_of_one_shape(chunk):
            return ArrowTensorArray.from_numpy(values.reshape(len(chunk), chunk.type.shape[0], values.shape[1]))
        # Of no rows it makes one, because Ray can make no such array without any.
        return ArrowVariableShapedTensorArray.from_numpy(np.split(values, offsets[1:-1])).slice(0, len(chunk))


def _is_of_one_shape(tensors: Any) -> bool:
    return not types.is_struct(tensors.storage.type)


def _lists_of(name: str, chunk: Any, input_size: int) -> Any:
    """What Ray stores of arrays: the numbers of each as a list, and beside them their shapes."""
    if not isinstance(chunk, pa.ExtensionArray):
        return chunk
    if _is_of_one_shape(chunk):
        check.check_shape(name, chunk.type.shape, ("T", input_size))
        return chunk.storage
    for shape in chunk.storage.field("shape").to_pylist():
        check.check_shape(name, tuple(shape), ("T", input_size))
    return chunk.storage.field("data")
