"""threadpoolctl's limit of OpenMP bounds the default number of threads; its limit of BLAS changes no bit.

threadpoolctl also sees the private OpenBLAS and sets its number of threads; the next call sets it back to one.
"""

from __future__ import annotations

from concurrent_layers import all_results
from threadpoolctl import threadpool_info, threadpool_limits

from indygru_cpu._engine import blas
from indygru_cpu._engine import threads as thread_counts

expected = all_results(2)
with threadpool_limits(1, "openmp"):
    assert thread_counts.default().count == 1
    assert all_results() == expected
with threadpool_limits(4, "blas"):
    assert blas.blas.threads == 4
    assert all_results() == expected == all_results(2)
    assert blas.blas.threads == 1
print(blas.blas.path in [library["filepath"] for library in threadpool_info()], all_results() == expected)
