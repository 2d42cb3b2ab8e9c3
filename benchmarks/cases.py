"""What is measured: shapes, and for each kind of work the contestants that do it.

The yardstick is `numpy.matmul` of the input projection alone, (T*B, D) by (D, 3N): the work that nobody can leave out.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from indygru_cpu import functional, reference

#: (T, B, D, N)
SHAPES = {
    "small": (100, 1, 64, 64),
    "speech": (500, 16, 80, 256),
    "lm": (256, 32, 512, 512),
    "wide": (64, 64, 1024, 1024),
    "long": (16384, 1, 16, 32),
}
STEP_SHAPES = {"step 1 x 32": (1, 1, 32, 32), "step 1 x 256": (1, 1, 256, 256), "step 64 x 256": (1, 64, 256, 256)}

OURS, MATMUL, REFERENCE = "indygru_cpu", "numpy.matmul", "NumPy reference"
Work = Callable[[], Any]


def arguments(shape: tuple[int, int, int, int], dtype: Any = np.float32) -> tuple[Any, ...]:
    """x, h0, kernel, recurrent_kernel, bias, dy: seeded, of ordinary size."""
    n_steps, n_batch, n_inputs, n_units = shape
    rng = np.random.default_rng(7)
    x, h0 = rng.standard_normal((n_steps, n_batch, n_inputs)), rng.standard_normal((n_batch, n_units))
    kernel = rng.standard_normal((n_inputs, 3 * n_units)) / np.sqrt(n_inputs)
    recurrent_kernel, bias = rng.uniform(-1, 1, 3 * n_units), rng.standard_normal(3 * n_units)
    dy = rng.standard_normal((n_steps, n_batch, n_units))
    return tuple(array.astype(dtype) for array in (x, h0, kernel, recurrent_kernel, bias, dy))


def contestants(kind: str, shape: tuple[int, int, int, int], threads: int | None = None) -> dict[str, Work]:
    """Name -> work to time, for kind "forward", "training" (forward and backward) or "step"."""
    x, h0, kernel, recurrent_kernel, bias, dy = arguments(shape)
    weights = (kernel, recurrent_kernel, bias)
    rows = x.reshape(-1, x.shape[2])
    out = np.empty_like(h0)

    def train() -> Any:
        _, _, tape = functional.forward(x, h0, *weights, tape=True, num_threads=threads)
        return functional.backward(tape, dy, num_threads=threads)

    def train_reference() -> Any:
        return reference.backward(reference.forward(x, h0, *weights)[2], dy, np.zeros_like(h0))

    ours: dict[str, Work] = {
        "forward": lambda: functional.forward(x, h0, *weights, num_threads=threads),
        "training": train,
        "step": lambda: functional.step(x[0], h0, *weights, out=out),
    }
    theirs: dict[str, Work] = {
        "forward": lambda: reference.forward(x, h0, *weights),
        "training": train_reference,
        "step": lambda: reference.forward(x, h0, *weights),
    }
    return {OURS: ours[kind], MATMUL: lambda: np.matmul(rows, kernel), REFERENCE: theirs[kind]}
