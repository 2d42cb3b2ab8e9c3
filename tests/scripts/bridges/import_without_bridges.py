"""Import indygru_cpu and print which packages of the bridges that imported."""

from __future__ import annotations

import importlib
import sys

importlib.import_module("indygru_cpu")
assert len(sys.modules) > 9
print({"dask", "pyarrow", "pyspark", "ray"} & sys.modules.keys())
