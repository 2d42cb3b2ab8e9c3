"""Prints the milliseconds of `import indygru_cpu` after `import numpy`."""

from __future__ import annotations

import importlib
import time

importlib.import_module("numpy")
start = time.perf_counter()
importlib.import_module("indygru_cpu")
print(1e3 * (time.perf_counter() - start))
