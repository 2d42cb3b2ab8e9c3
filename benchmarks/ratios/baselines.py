"""Baselines in NumPy: each function prepares one for a case and returns the function that is timed.

A partial adds less to NumPy's call than a lambda; the difference matters for calls of half a microsecond.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from cases import Case


def matmul(case: Case) -> Callable[[], Any]:
    """The input projection alone."""
    out = np.empty((len(case.rows), 3 * case.shape[3]), case.dtype)
    return partial(np.matmul, case.rows, case.kernel, out=out)


def streamed(case: Case) -> Callable[[], Any]:
    """The input projection in the chunks of `library.streamed`."""
    chunk, lengths = case.chunked()
    rows, out = chunk.rows, np.empty((len(chunk.rows), 3 * case.shape[3]), case.dtype)
    n_batch, kernel = case.shape[1], case.kernel

    def work() -> None:
        for n in lengths:
            np.matmul(rows[: n * n_batch], kernel, out=out[: n * n_batch])

    return work


def products(case: Case) -> Callable[[], Any]:
    """The three matrix products of training: the projection, and the gradients of inputs and kernel."""
    rows, kernel, project = case.rows, case.kernel, matmul(case)
    dgates, dx, dkernel = case.normal(9, len(rows), 3 * case.shape[3]), np.empty_like(rows), np.empty_like(kernel)

    def work() -> None:
        project()
        np.matmul(dgates, kernel.T, out=dx)
        np.matmul(rows.T, dgates, out=dkernel)

    return work


def tanh(case: Case) -> Callable[[], Any]:
    """One tanh for each unit-step."""
    return partial(np.tanh, case.dy, out=np.empty_like(case.dy))


def add(case: Case) -> Callable[[], Any]:
    """One addition for each unit."""
    return partial(np.add, case.h0[0], case.dy[0, 0], out=np.empty_like(case.h0[0]))


def dot(case: Case) -> Callable[[], Any]:
    """The projection of one row in one step."""
    return partial(np.dot, case.x[0, 0], case.kernel, out=np.empty_like(case.bias))


def pipeline_products(case: Case) -> Callable[[], Any]:
    """The two matrix products of the pipeline."""
    y = case.dy.reshape(len(case.rows), -1)
    x, z = np.empty_like(case.rows), np.empty_like(y)

    def work() -> None:
        np.matmul(case.rows, case.before, out=x)
        np.matmul(y, case.after, out=z)

    return work
