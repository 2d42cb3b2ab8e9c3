"""The arguments of a call, checked once: what every function of `functional` begins with."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from indygru_cpu import _threads
from indygru_cpu import _validation as check

Array = np.ndarray[Any, Any]


@lru_cache(maxsize=16)
def _no_bias(columns: int, dtype: np.dtype[Any]) -> Array:
    return np.zeros(columns, dtype)


class Weights(NamedTuple):
    """The checked weights of a call: kernel (D, 3N), recurrent_kernel (3N,), bias (3N,)."""

    kernel: Array
    recurrent_kernel: Array
    bias: Array

    @classmethod
    def checked(cls, kernel: object, recurrent_kernel: object, bias: object) -> Weights:
        """The three, C-contiguous, of one dtype and of shapes that fit each other."""
        w = check.contiguous("kernel", kernel, ("D", "3N"), None)
        if w.shape[1] % 3:
            raise ValueError(f"kernel: expected 3N columns (r, z, candidate), got {w.shape[1]}")
        like, columns = ("kernel", w.dtype), (w.shape[1],)
        u = check.contiguous("recurrent_kernel", recurrent_kernel, columns, like)
        b = _no_bias(columns[0], w.dtype) if bias is None else check.contiguous("bias", bias, columns, like)
        return cls(w, u, b)

    @property
    def like(self) -> tuple[str, np.dtype[Any]]:
        """The dtype that everything else must have, and whose it is."""
        return "kernel", self.kernel.dtype


class Call(NamedTuple):
    """The checked arguments of `forward`."""

    x: Array
    h0: Array
    weights: Weights
    lengths: Array | None
    activation: int
    reproducible: bool

    @classmethod
    def checked(
        cls, x: object, h0: object, weights: Weights, lengths: object, activation: str, reproducible: bool
    ) -> Call:
        """The arguments, of the weights' dtype and of shapes that fit each other; no state is a state of zeros."""
        n_inputs, n_units = weights.kernel.shape[0], weights.kernel.shape[1] // 3
        x = check.array("x", x, ("T", "B", n_inputs), weights.like)
        n_steps, n_batch, _ = x.shape
        if h0 is None:
            h0 = np.zeros((n_batch, n_units), x.dtype)
        h0 = check.array("h0", h0, (n_batch, n_units), weights.like)
        if lengths is not None:
            lengths = check.lengths("lengths", lengths, n_steps, n_batch)
        return cls(x, h0, weights, lengths, check.activation_index(activation), bool(reproducible))

    @property
    def y_shape(self) -> tuple[int, int, int]:
        """(T, B, N)."""
        return self.x.shape[0], self.h0.shape[0], self.h0.shape[1]

    @property
    def tape_size(self) -> int:
        """Numbers on the tape: r, z and candidate of every valid step."""
        n_steps, n_batch, n_units = self.y_shape
        return 3 * n_units * (n_steps * n_batch if self.lengths is None else int(self.lengths.sum()))

    def threads(self, num_threads: int | None, passes: int) -> int:
        """Threads for so many times the work of a forward pass; gates and candidate cost some 30 inputs' worth."""
        n_steps, n_batch, n_units = self.y_shape
        work = passes * n_steps * n_batch * 3 * n_units * (self.x.shape[2] + 30)
        return _threads.count(check.num_threads(num_threads), work)

    def checked_out(self, out: object) -> Array:
        """The array to write y into: `out`, or a new one."""
        if out is None:
            return np.empty(self.y_shape, self.x.dtype)
        return check.out("out", out, self.y_shape, self.x.dtype, {"x": self.x, "h0": self.h0, **self.weights._asdict()})

    def new_dx(self) -> Array:
        """Room for dx, (T, B, D), time-major or batch-major as x is; zeros where the kernels do not write all of it."""
        is_all_written = self.lengths is None and self.y_shape[2] > 0
        order = (0, 1, 2) if abs(self.x.strides[0]) >= abs(self.x.strides[1]) else (1, 0, 2)
        shape = [self.x.shape[axis] for axis in order]
        room = np.empty(shape, self.x.dtype) if is_all_written else np.zeros(shape, self.x.dtype)
        return np.transpose(room, order)
