"""The bridge to Spark: DataFrames come back with the layer's bits. What it does with Arrow's lists is in test_arrow.

PySpark is large, so the extra `test` does not bring it: `pip install "indygru_cpu[spark]"` does.
"""

from __future__ import annotations

import re
import shutil
import sys

import helpers
import pytest

pytest.importorskip("pyspark", reason="pyspark is not installed: the extra `spark` brings it")
if not shutil.which("java"):
    pytest.skip("there is no Java here, and Spark needs one", allow_module_level=True)

#: PySpark warns of pandas 3.
QUIET = "import warnings; warnings.filterwarnings('ignore', 'PySpark does not yet', FutureWarning)\n"

PROGRAM = """
import numpy as np
from pyspark.sql import SparkSession
from indygru_cpu import IndyGRU
from indygru_cpu.spark import predict

def said(*arguments, **options):
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
    given = [(i, row.astype(dtype).tolist()) for i, row in enumerate(rows)]
    frame = spark.createDataFrame(given, f"id int, x array<array<{number}>>")
    wanted, lazy = [layer(row.astype(dtype)) for row in rows], [predict(layer, frame, last=last) for last in (0, 1)]
    layer.parameters["kernel_l0"][...] *= 0.5  # what was asked for was asked of the weights before
    for last in (0, 1):
        found = lazy[last].orderBy("id").collect()
        assert all(np.array(row.y, dtype).tobytes() == states[last].tobytes() for row, states in zip(found, wanted))
        assert [row.x for row in found] == [x for _, x in given]
        print(lazy[last].schema.simpleString())
said(layer, frame, "z")
said(layer, frame, output="id")
said(layer, frame, "id")
said(IndyGRU(9, 7), frame)
said(layer, 3)
spark.stop()
"""
PRINTED = [
    *["struct<id:int,x:array<array<float>>,y:array<array<float>>>"] * 2,
    *["struct<id:int,x:array<array<double>>,y:array<array<double>>>"] * 2,
    "ValueError: column: expected one of id, x, got 'z'",
    "ValueError: output: expected the name of no column, got 'id'",
    "TypeError: id: expected lists, got int32",
    "TypeError: x: expected lists of float32, as the layer has, got list<element: list<element: double>>",
    "TypeError: frame: expected a Spark DataFrame, got int",
]


def run(code, folder):
    here = {"PYSPARK_PYTHON": sys.executable, "SPARK_LOCAL_IP": "127.0.0.1"}
    return helpers.run_python(QUIET + code, folder=folder, timeout=250, **here)


def test_frames(tmp_path):
    """In batches of two rows, on two workers."""
    lines = run(PROGRAM, tmp_path).splitlines()
    assert [line.replace(" not null", "") for line in lines] == PRINTED


def test_page(tmp_path):
    page = (helpers.ROOT / "docs" / "spark.md").read_text(encoding="utf-8")
    [program] = re.findall(r"^```python\n(.*?)^```$", page, re.M | re.S)
    run(program, tmp_path)
