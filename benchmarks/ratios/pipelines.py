"""The layer between products of NumPy, in a process of its own.

NumPy's OpenBLAS keeps its threads spinning for 0.1 s after a product. In the process of `library` they would slow down
the layer alone, which is the baseline of the pipeline.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from cases import Case

from ratios.library import make_layer


def pipeline(case: Case) -> Callable[[], Any]:
    """One round of the pipeline matmul -> layer -> matmul."""
    layer, h0, rows, before, after = make_layer(case), case.h0[None], case.rows, case.before, case.after
    x, y, z = np.empty_like(case.x), np.empty_like(case.dy), np.empty_like(case.dy)
    x_rows, y_rows, z_rows = (array.reshape(len(rows), -1) for array in (x, y, z))

    def work() -> None:
        np.matmul(rows, before, out=x_rows)
        layer(x, h0, out=y)
        np.matmul(y_rows, after, out=z_rows)

    return work


def pipeline_beside_others(case: Case) -> Callable[[], Any]:
    """The pipeline after torch and scikit-learn have started their threads in this process."""
    import torch
    from sklearn.ensemble import HistGradientBoostingRegressor

    torch.set_num_threads(case.threads)
    torch.ones(1 << 20).sin()
    HistGradientBoostingRegressor(max_iter=1).fit(case.normal(8, 2000, 8), case.normal(9, 2000))
    return pipeline(case)
