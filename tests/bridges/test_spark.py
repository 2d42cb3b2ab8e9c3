"""Inference on Spark: the layer's bits on DataFrames. test_arrow.py tests Arrow lists.

The extra `test` does not install PySpark, which is large: `pip install "indygru_cpu[spark]"`.
"""

from __future__ import annotations

import re
import shutil
import sys

import helpers
import pytest

pytest.importorskip("pyspark", reason="pyspark is not installed: the extra `spark` brings it")
if not shutil.which("java"):
    pytest.skip("Spark needs Java, which is not installed", allow_module_level=True)

ENVIRONMENT = {"PYSPARK_PYTHON": sys.executable, "SPARK_LOCAL_IP": "127.0.0.1"}
PRINTED = [
    *["struct<id:int,x:array<array<float>>,y:array<array<float>>>"] * 2,
    *["struct<id:int,x:array<array<double>>,y:array<array<double>>>"] * 2,
    "ValueError: column: expected one of id, x, got 'z'",
    "ValueError: output: expected the name of a new column, got 'id'",
    "TypeError: id: expected lists, got int32",
    "TypeError: x: expected lists of float32, the layer's dtype, got list<element: list<element: double>>",
    "TypeError: frame: expected a Spark DataFrame, got int",
]


def test_predict_gives_the_bits_of_the_layer_and_refuses_wrong_arguments(run_script):
    """In batches of two rows, on two workers."""
    lines = run_script("bridges/run_spark_frames.py", timeout=250, **ENVIRONMENT).splitlines()
    assert [line.replace(" not null", "") for line in lines] == PRINTED


def test_example_of_the_page_runs(run_python):
    page = (helpers.ROOT / "docs" / "spark.md").read_text(encoding="utf-8")
    [program] = re.findall(r"^```python\n(.*?)^```$", page, re.M | re.S)
    allow_warning = "import warnings; warnings.filterwarnings('ignore', 'PySpark does not yet', FutureWarning)\n"
    run_python(allow_warning + program, timeout=250, **ENVIRONMENT)
