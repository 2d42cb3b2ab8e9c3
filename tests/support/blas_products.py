"""Counts the matrix products of a call that go to BLAS, by wrapping the core's BLAS functions.

Last bits do not tell: two engines may sum in the same order, and OpenBLAS's order depends on the processor.
"""

from __future__ import annotations

import ctypes
from collections import Counter
from contextlib import contextmanager

from indygru_cpu._engine import _core, blas

_NO_TRANSPOSE, _TRANSPOSE = 111, 112
#: Products by the transposition of their two matrices: x W; dgates W^T; x^T dgates.
PROJECTION, INPUT_GRADIENT, KERNEL_GRADIENT = "projection", "input gradient", "kernel gradient"
_KINDS = {
    (_NO_TRANSPOSE, _NO_TRANSPOSE): PROJECTION,
    (_NO_TRANSPOSE, _TRANSPOSE): INPUT_GRADIENT,
    (_TRANSPOSE, _NO_TRANSPOSE): KERNEL_GRADIENT,
}


def _address(name):
    return blas.blas._address(name)


def _counting_function(name, real, kinds):
    """A C function that records the kind of each product and calls the library."""
    int_, pointer = ctypes.c_int, ctypes.c_void_p
    matrix = (pointer, int_)
    prototype = ctypes.CFUNCTYPE(None, *[int_] * 6, real, *matrix, *matrix, real, *matrix)
    product = prototype(_address(name))

    def counted(*arguments):
        kinds.append(_KINDS[arguments[1:3]])
        product(*arguments)

    return prototype(counted)


@contextmanager
def counted_products():
    """A function `take()`: products of each kind since its last call that have gone to BLAS."""
    kinds = []
    functions = [
        _counting_function("cblas_sgemm", ctypes.c_float, kinds),
        _counting_function("cblas_dgemm", ctypes.c_double, kinds),
    ]
    threads = _address("openblas_get_num_threads"), _address("openblas_set_num_threads")
    _core.use_blas(*(ctypes.cast(function, ctypes.c_void_p).value for function in functions), *threads)

    def take():
        counts = Counter(kinds)
        kinds.clear()
        return counts

    try:
        yield take
    finally:
        _core.use_blas(_address("cblas_sgemm"), _address("cblas_dgemm"), *threads)
