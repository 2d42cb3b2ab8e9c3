"""The shapes and their seeded inputs, which the library and all peers share."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np

from indygru_cpu._cli.bench import SHAPES

Array: TypeAlias = np.ndarray[Any, Any]
Shape: TypeAlias = tuple[int, int, int, int]

#: Shapes of the calls that are timed in place.
PLACE_SHAPES: list[Shape] = [SHAPES["small"], (50, 8, 64, 128), (100, 8, 64, 256), SHAPES["speech"], SHAPES["lm"]]
#: Long sequences of few units; chunks of their time run side by side.
LONG_SHAPES: list[Shape] = [SHAPES["long"], (100_000, 1, 64, 64), (16384, 1, 80, 128)]
#: Narrow layers and short batches, whose rows fill few vectors, and a wide batch to compare with.
NARROW_SHAPES: list[Shape] = [(1000, 1, 1, 128), (500, 16, 1, 16), (500, 64, 1, 8)]
WIDE_BATCH: Shape = (256, 8, 1, 256)
#: Calls that cost little but the call itself, those of the PyTorch module, and those of a stack of layers.
TINY_CALL: Shape = (2, 1, 8, 8)
TINY_TORCH_CALL: Shape = (2, 1, 16, 16)
STACKED_CALL: Shape = (20, 1, 16, 32)
#: Steps of a call when a long sequence is streamed.
CHUNK = 4096


@dataclass(frozen=True)
class Case:
    """Inputs and weights of one shape, each created at first use, and the number of threads (None: the library's)."""

    shape: Shape
    dtype: str
    threads: int | None

    def chunked(self) -> tuple[Case, list[int]]:
        """The case of one chunk, and the lengths of all chunks of this case."""
        n_whole, n_last = divmod(self.shape[0], CHUNK)
        lengths = [CHUNK] * n_whole + [n_last] * (n_last > 0)
        return replace(self, shape=(min(CHUNK, self.shape[0]), *self.shape[1:])), lengths

    def normal(self, seed: int, *size: int) -> Array:
        """Standard normal numbers of a seed."""
        array: Array = np.random.default_rng(seed).standard_normal(size, dtype=np.dtype(self.dtype).type)
        return array

    @cached_property
    def x(self) -> Array:
        """Inputs, (T, B, D)."""
        return self.normal(0, *self.shape[:3])

    @cached_property
    def h0(self) -> Array:
        """First state, (B, N)."""
        return self.normal(1, self.shape[1], self.shape[3])

    @cached_property
    def kernel(self) -> Array:
        """Weights of the inputs, (D, 3N)."""
        return self.normal(2, self.shape[2], 3 * self.shape[3]) / np.sqrt(self.shape[2], dtype=self.dtype)

    @cached_property
    def recurrent_kernel(self) -> Array:
        """Recurrent weights, (3N,), from the distribution of IndyGRU's initial values."""
        return np.random.default_rng(3).uniform(-1, 1, 3 * self.shape[3]).astype(self.dtype)

    @cached_property
    def bias(self) -> Array:
        """Bias, (3N,)."""
        return self.normal(4, 3 * self.shape[3])

    @cached_property
    def dy(self) -> Array:
        """Gradient with respect to all states, (T, B, N); the gradient with respect to the last state is zero."""
        return self.normal(5, *self.shape[:2], self.shape[3])

    @cached_property
    def before(self) -> Array:
        """Weights of the product before the layer in a pipeline, (D, D)."""
        return self.normal(6, self.shape[2], self.shape[2]) / np.sqrt(self.shape[2], dtype=self.dtype)

    @cached_property
    def after(self) -> Array:
        """Weights of the product after the layer, (N, N)."""
        return self.normal(7, self.shape[3], self.shape[3]) / np.sqrt(self.shape[3], dtype=self.dtype)

    @property
    def weights(self) -> tuple[Array, Array, Array]:
        """Weights in the order of the arguments of every engine."""
        return self.kernel, self.recurrent_kernel, self.bias

    @property
    def rows(self) -> Array:
        """Inputs as a matrix, (T B, D)."""
        return self.x.reshape(-1, self.shape[2])
