"""Compare results on Spark with those of the layer. Prints the schemas of the results and texts of errors."""

# ruff: noqa: E402  (the filter must be set before the import of PySpark)
from __future__ import annotations

import warnings

warnings.filterwarnings("ignore", "PySpark does not yet", FutureWarning)  # of pandas 3

import numpy as np
from pyspark.sql import SparkSession

from indygru_cpu import IndyGRU
from indygru_cpu.spark import predict


def print_error(*arguments, **options):
    try:
        predict(*arguments, **options)
    except (TypeError, ValueError) as error:
        print(f"{type(error).__name__}: {error}")


builder = SparkSession.builder.master("local[2]").config("spark.ui.enabled", "false")
spark = builder.config("spark.sql.execution.arrow.maxRecordsPerBatch", "2").getOrCreate()
rng = np.random.default_rng(0)
rows = [rng.standard_normal((n, 9)) for n in (8, 1, 0, 33, 17)]
for dtype, number in ((np.float32, "float"), (np.float64, "double")):
    layer = IndyGRU(9, 7, num_layers=2, bidirectional=True, dtype=dtype, seed=0, reproducible=True)
    records = [(i, row.astype(dtype).tolist()) for i, row in enumerate(rows)]
    frame = spark.createDataFrame(records, f"id int, x array<array<{number}>>")
    expected = [layer(row.astype(dtype)) for row in rows]
    frames = [predict(layer, frame, last=last) for last in (0, 1)]
    layer.parameters["kernel_l0"][...] *= 0.5  # must not affect the results
    for last in (0, 1):
        results = frames[last].orderBy("id").collect()
        for result, states in zip(results, expected, strict=True):
            assert np.array(result.y, dtype).tobytes() == states[last].tobytes()
        assert [result.x for result in results] == [x for _, x in records]
        print(frames[last].schema.simpleString())
print_error(layer, frame, "z")
print_error(layer, frame, output="id")
print_error(layer, frame, "id")
print_error(IndyGRU(9, 7), frame)
print_error(layer, 3)
spark.stop()
