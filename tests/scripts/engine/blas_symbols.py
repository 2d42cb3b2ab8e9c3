"""For some functions of the BLAS library: whether the library has them and the global scope of the process does not."""

from __future__ import annotations

import ctypes

from indygru_cpu._engine import blas

process = ctypes.CDLL(None)
library = ctypes.CDLL(blas.blas.path)
names = ("scipy_cblas_sgemm", "scipy_dgemm_", "scipy_openblas_set_num_threads")
print([hasattr(library, name) and not hasattr(process, name) for name in names])
