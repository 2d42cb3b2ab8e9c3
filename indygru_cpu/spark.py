"""Inference on Spark DataFrames: one call of the layer per Arrow batch of a partition, without a copy of its inputs.

This module requires the extra `spark`, ``pip install "indygru_cpu[spark]"``, and Java. See ``docs/spark.md``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

try:
    import pyarrow as pa
    from pyspark.sql.pandas.types import from_arrow_type, to_arrow_type
    from pyspark.sql.types import StructField, StructType
except ImportError as error:
    raise ImportError(f'needs PySpark and pyarrow ({error}): pip install "indygru_cpu[spark]"') from error

from indygru_cpu._arrow import LayerRunner, append_states, make_lists
from indygru_cpu._engine.messages import shortened, shown
from indygru_cpu.layer import IndyGRU

__all__ = ["predict"]


def predict(
    layer: IndyGRU, frame: Any, column: str = "x", *, output: str = "y", last: bool = False, num_threads: int = 1
) -> Any:
    """Run a layer lazily over a column of sequences, and append the results as a column.

    Parameters
    ----------
    layer : IndyGRU
        The layer. Later changes of its weights have no effect.
    frame : pyspark.sql.DataFrame
        A frame with one sequence per row.
    column : str
        Name of the column of sequences: ``array<array<float>>``, steps of D numbers, or ``array<float>``, the numbers
        of all steps, which is more compact; ``double`` instead of ``float`` for a layer of float64. Nulls are refused.
    output : str
        Name of the new column, an ``array<array<float>>``.
    last : bool
        Return h_n instead of y.
    num_threads : int
        Threads of each task. Spark runs one task per core by default, so use ``spark.task.cpus`` threads.

    Returns
    -------
    pyspark.sql.DataFrame
        All columns of `frame`, and `output`: y as T_i lists of N numbers (2N if bidirectional), or h_n as
        layers * directions lists of N numbers.

    Raises
    ------
    TypeError
        `layer` is not an IndyGRU, `frame` is not a DataFrame, or the column has another type.
    ValueError
        `column` does not exist, `output` exists, or `num_threads` is less than 1. Nulls and steps of other than D
        numbers raise when Spark computes them.

    Notes
    -----
    The result is a `mapInArrow` [1]_. Spark broadcasts a layer larger than 1 MB once to each executor.

    With ``reproducible=True``, the bits of a row do not depend on how the frame is partitioned.

    References
    ----------
    .. [1] https://spark.apache.org/docs/latest/api/python/reference/pyspark.sql/api/pyspark.sql.DataFrame.mapInArrow.html
    """
    if not hasattr(frame, "mapInArrow"):
        raise TypeError(f"frame: expected a Spark DataFrame, got {type(frame).__name__}")
    runner = LayerRunner(layer, last, num_threads)
    if column not in frame.columns:
        raise ValueError(f"column: expected one of {shortened(', '.join(frame.columns), 500)}, got {shown(column)}")
    if output in frame.columns:
        raise ValueError(f"output: expected the name of a new column, got {shown(output)}")
    # A run on no rows gives the type of the results, and checks that of the column.
    empty = pa.array([], to_arrow_type(frame.schema[column].dataType))
    field = StructField(output, from_arrow_type(make_lists(*runner(column, empty)).type))

    def run_partition(batches: Iterable[Any]) -> Iterator[Any]:
        return (append_states(runner, batch, column, output) for batch in batches)

    return frame.mapInArrow(run_partition, StructType([*frame.schema.fields, field]))
