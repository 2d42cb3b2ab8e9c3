"""A BLAS library that exports only products computes within the error bounds. Argument: the library of plain_blas.c.

Prints the path, the prefix, the version and the number of threads of the library.
"""

from __future__ import annotations

import ctypes
import sys

import helpers

from indygru_cpu._engine import blas

products = ctypes.c_long.in_dll(ctypes.CDLL(sys.argv[1]), "products")
for dtype in helpers.DTYPES:
    case = helpers.random_case(helpers.THROUGH_BLAS[1], dtype, ragged=True)
    helpers.assert_close(case.run(num_threads=2), case.expected(), dtype)
    products.value = 0
    case.forward(reproducible=True)
    assert not products.value
    case.forward()
    assert products.value
print(blas.blas.path, repr(blas.blas.prefix), blas.blas.version, blas.blas.threads)
