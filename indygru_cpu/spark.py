"""Inference on Spark's DataFrames: each Arrow batch of a partition is one call of the layer, in the batch's own memory.

Needs the extra `spark`, ``pip install "indygru_cpu[spark]"``, and a Java. ``docs/spark.md`` is its page.
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

from indygru_cpu._arrow import Run, lists, with_states
from indygru_cpu._engine.messages import shortened, shown
from indygru_cpu.layer import IndyGRU

__all__ = ["predict"]


def predict(
    layer: IndyGRU, frame: Any, column: str = "x", *, output: str = "y", last: bool = False, num_threads: int = 1
) -> Any:
    """Run a layer over a column of sequences, lazily: a DataFrame with a column more.

    Parameters
    ----------
    layer : IndyGRU
        Its weights are taken as they are now.
    frame : pyspark.sql.DataFrame
        With the sequences of a row in `column`.
    column : str
        ``array<array<float>>``, steps of D numbers; or ``array<float>``, the numbers of all steps one after the other,
        which is less to read. ``double`` for a layer of float64. No nulls.
    output : str
        Name of the new column, an ``array<array<float>>``.
    last : bool
        Ask for h_n instead of y.
    num_threads : int
        Threads of each task. Spark runs as many tasks at once as it has cores, so that one is right, unless
        ``spark.task.cpus`` gives a task more.

    Returns
    -------
    pyspark.sql.DataFrame
        All columns of `frame`, and y, T_i lists of N numbers (2N with two directions); or h_n, layers * directions
        lists of N numbers.

    Raises
    ------
    TypeError, ValueError
        Something else than a layer; a column that is not there or there already, or of other types. Nulls and steps
        that have not D numbers are found when they are computed.

    Notes
    -----
    It is a `mapInArrow` [1]_. The layer goes to each executor once, by Spark's broadcast if it is larger than 1 MB.

    A row has the same bits however the frame is cut if the layer has ``reproducible=True``.

    References
    ----------
    .. [1] https://spark.apache.org/docs/latest/api/python/reference/pyspark.sql/api/pyspark.sql.DataFrame.mapInArrow.html
    """
    if not hasattr(frame, "mapInArrow"):
        raise TypeError(f"frame: expected a Spark DataFrame, got {type(frame).__name__}")
    run = Run(layer, last, num_threads)
    if column not in frame.columns:
        raise ValueError(f"column: expected one of {shortened(', '.join(frame.columns), 500)}, got {shown(column)}")
    if output in frame.columns:
        raise ValueError(f"output: expected the name of no column, got {shown(output)}")
    # What comes of no rows tells the type of the results, or refuses that of the column.
    empty = pa.array([], to_arrow_type(frame.schema[column].dataType))
    made = StructField(output, from_arrow_type(lists(*run(column, empty)).type))

    def of_partition(batches: Iterable[Any]) -> Iterator[Any]:
        return (with_states(run, batch, column, output) for batch in batches)

    return frame.mapInArrow(of_partition, StructType([*frame.schema.fields, made]))
