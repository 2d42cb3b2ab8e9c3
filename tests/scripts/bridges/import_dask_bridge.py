"""Print what the import of indygru_cpu.dask changes: threads, Dask's configuration, loaded modules."""

from __future__ import annotations

import importlib
import os
import sys

importlib.import_module("indygru_cpu")
assert "dask" not in sys.modules
dask = importlib.import_module("dask")
importlib.import_module("dask.array")
importlib.import_module("dask.bag")


def count_threads():
    return len(os.listdir("/proc/self/task")) if os.path.exists("/proc/self/task") else 0


before, configuration = count_threads(), str(dask.config.config)
importlib.import_module("indygru_cpu.dask")
print(count_threads() - before, str(dask.config.config) == configuration, "distributed" in sys.modules)
