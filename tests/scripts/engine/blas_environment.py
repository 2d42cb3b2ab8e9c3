"""The import leaves the environment as it was. Prints BLAS's threads and C's view of OPENBLAS_NUM_THREADS after it."""

from __future__ import annotations

import ctypes
import importlib
import os

before = dict(os.environ)
blas = importlib.import_module("indygru_cpu._engine.blas")
assert dict(os.environ) == before
getenv = ctypes.CDLL(None).getenv
getenv.restype = ctypes.c_char_p
print(blas.blas.threads, getenv(b"OPENBLAS_NUM_THREADS"))
