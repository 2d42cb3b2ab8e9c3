"""Prints the number of threads of SciPy's BLAS after a product.

Arguments: modules to import before the product, the word "after", and modules to import after it.
After each import of indygru_cpu its own BLAS must have one thread.
"""

from __future__ import annotations

import ctypes
import importlib
import re
import sys
from pathlib import Path

import numpy as np


def load(names):
    for name in names:
        module = importlib.import_module(name)
        if name == "indygru_cpu":
            assert module._engine.blas.blas.threads == 1


separator = sys.argv.index("after")
load(sys.argv[1:separator])
linalg = importlib.import_module("scipy.linalg")
linalg.blas.dgemm(1.0, np.full((300, 300), 0.5), np.full((300, 300), 0.25))
maps = Path("/proc/self/maps").read_text().splitlines()
paths = {line.split()[-1] for line in maps if re.search("scipy.libs/.*openblas", line)}
assert len(paths) == 1, paths
library = ctypes.CDLL(paths.pop())
name = "openblas_get_num_threads"  # without the prefix in older versions
print(getattr(library, f"scipy_{name}" if hasattr(library, f"scipy_{name}") else name)())
load(sys.argv[separator + 1 :])
