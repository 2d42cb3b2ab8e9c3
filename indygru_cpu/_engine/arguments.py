"""The arguments of a call, checked once: what every function of `functional` begins with."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from indygru_cpu._engine import _core, threads
from indygru_cpu._engine import checks as check
from indygru_cpu._engine.sequences import Sequences
from indygru_cpu._typing import Array


@lru_cache(maxsize=16)
def _no_bias(columns: int, dtype: np.dtype[Any]) -> Array:
    """Return the zeros that all calls without a bias share: read-only."""
    zeros = np.zeros(columns, dtype)
    zeros.flags.writeable = False
    return zeros


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
        return cls.of(w, u, None if bias is None else check.contiguous("bias", bias, columns, like))

    @classmethod
    def of(cls, kernel: Array, recurrent_kernel: Array, bias: Array | None) -> Weights:
        """Of arrays that fit; no bias is a bias of zeros."""
        return cls(kernel, recurrent_kernel, _no_bias(kernel.shape[1], kernel.dtype) if bias is None else bias)

    @property
    def like(self) -> tuple[str, np.dtype[Any]]:
        """The dtype that everything else must have, and whose it is."""
        return "kernel", self.kernel.dtype


def work_of(n_lines: int, kernel: Array) -> float:
    """Multiply-adds of a forward pass over n_lines valid steps."""
    return _core.multiply_adds(n_lines, kernel.shape[0], kernel.shape[1] // 3)


class Call(NamedTuple):
    """The checked arguments of `forward`. x and all that is shaped like it, or like y, are as the user gave them."""

    x: Array
    h0: Array
    weights: Weights
    sequences: Sequences
    groups: int
    activation: int
    reproducible: bool

    @classmethod
    def checked(
        cls, x: object, h0: object, weights: Weights, *, lengths: object, offsets: object, reverse: bool, groups: int,
        activation: str, reproducible: bool,
    ) -> Call:  # fmt: skip
        """The arguments, of the weights' dtype and of shapes that fit each other; no state is a state of zeros."""
        n_units = weights.kernel.shape[1] // 3
        groups = check.groups(groups, {"N": n_units})
        n_inputs = weights.kernel.shape[0] * groups
        if n_inputs > check.MOST_COLUMNS:
            raise ValueError(f"groups: expected at most {check.MOST_COLUMNS} inputs in all, got {n_inputs}")
        sizes = ("T", "B") if offsets is None else ("sum of lengths",)
        found = check.array("x", x, (*sizes, n_inputs), weights.like)
        sequences = _sequences_of(found, lengths, offsets, bool(reverse))
        check.lines("x", sequences.n_steps, sequences.n_batch, max(n_inputs, weights.kernel.shape[1]))
        state_shape = sequences.n_batch, n_units
        state = np.zeros(state_shape, found.dtype) if h0 is None else check.array("h0", h0, state_shape, weights.like)
        index = check.activation_index(activation)
        return cls(found, state, weights, sequences, groups, index, bool(reproducible))

    @property
    def y_shape(self) -> tuple[int, ...]:
        """(T, B, N), or of ragged values (sum of lengths, N)."""
        return self.sequences.shape(self.h0.shape[1])

    def threads(self, num_threads: int | None, passes: int = 1, most: int | None = None) -> threads.Threads:
        """Threads for so many times the work of a forward pass; at most `most`, unless it asks for a number."""
        asked = threads.asked(num_threads)
        count = threads.count(asked, passes * work_of(self.sequences.n_lines, self.weights.kernel))
        return threads.Threads(count if most is None or asked is not None else min(count, most), asked is None)

    def check_out(self, name: str, out: object, shape: tuple[int, ...], others: dict[str, Array]) -> None:
        """A user's array for results: of a shape, apart from the arguments and from `others`."""
        check.out(name, out, shape, self.x.dtype, {"x": self.x, **self.weights._asdict(), **others})


def _sequences_of(x: Array, lengths: object, offsets: object, reverse: bool) -> Sequences:
    if offsets is None:
        n_steps, n_batch, _ = x.shape
        lengths = None if lengths is None else check.lengths("lengths", lengths, n_steps, n_batch)
        found = Sequences.padded(n_steps, n_batch, lengths)
    elif lengths is None:
        found = Sequences.ragged(check.offsets("offsets", offsets, len(x)), len(x))
    else:
        raise ValueError("lengths: ragged values have their lengths in offsets; give one of the two")
    return found.reversed() if reverse else found
