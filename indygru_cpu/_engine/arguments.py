"""The checked arguments of a call of one layer in one direction."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from indygru_cpu._engine import _core, threads
from indygru_cpu._engine import checks as check
from indygru_cpu._engine.sequences import SequenceLayout
from indygru_cpu._typing import Array


@lru_cache(maxsize=16)
def _zero_bias(n_columns: int, dtype: np.dtype[Any]) -> Array:
    """Return the read-only zeros that all calls without a bias share."""
    zeros = np.zeros(n_columns, dtype)
    zeros.flags.writeable = False
    return zeros


class Weights(NamedTuple):
    """The checked weights of a call: kernel (D / groups, 3N), recurrent_kernel (3N,), bias (3N,)."""

    kernel: Array
    recurrent_kernel: Array
    bias: Array

    @classmethod
    def checked(cls, kernel: object, recurrent_kernel: object, bias: object) -> Weights:
        """The weights as C-contiguous arrays, after a check of their dtypes and shapes."""
        w = check.contiguous("kernel", kernel, ("D", "3N"))
        check.units(w.shape[1])
        n_columns = (w.shape[1],)
        u = check.contiguous("recurrent_kernel", recurrent_kernel, n_columns, "kernel", w.dtype)
        b = None if bias is None else check.contiguous("bias", bias, n_columns, "kernel", w.dtype)
        return cls.from_arrays(w, u, b)

    @classmethod
    def from_arrays(cls, kernel: Array, recurrent_kernel: Array, bias: Array | None) -> Weights:
        """Weights of arrays that were checked. A bias of None becomes zeros."""
        return cls(kernel, recurrent_kernel, _zero_bias(kernel.shape[1], kernel.dtype) if bias is None else bias)


def forward_work(n_valid_steps: int, kernel: Array) -> float:
    """Multiply-adds of a forward pass over `n_valid_steps` valid steps."""
    return _core.multiply_adds(n_valid_steps, kernel.shape[0], kernel.shape[1] // 3)


class BoundArguments(NamedTuple):
    """The checked arguments of a call of one layer in one direction.

    x has the caller's layout; `sequences` makes the time-major views.

    Attributes
    ----------
    x : array, (T, B, D) or (S, D)
        Inputs.
    h0 : array, (B, N)
        State before the first step.
    weights : Weights
        All of x's dtype.
    sequences : SequenceLayout
        Positions of each row's steps in x and in every array shaped like x or y.
    groups : int
        Number of blocks of inputs and units.
    activation : int
        Index of the candidate's activation in `checks.ACTIVATIONS`.
    reproducible : bool
        Whether the bits of a row depend on that row alone.
    """

    x: Array
    h0: Array
    weights: Weights
    sequences: SequenceLayout
    groups: int
    activation: int
    reproducible: bool

    @classmethod
    def bind(
        cls, x: object, h0: object, weights: Weights, *, lengths: object, offsets: object, reverse: bool, groups: int,
        activation: str, reproducible: bool,
    ) -> BoundArguments:  # fmt: skip
        """Check all arguments against the weights' dtype and against each other. A state of None becomes zeros."""
        dtype, n_columns = weights.kernel.dtype, weights.kernel.shape[1]
        n_units = n_columns // 3
        groups = check.groups(groups, {"N": n_units})
        n_inputs = weights.kernel.shape[0] * groups
        if n_inputs > check.MAX_COLUMNS:
            raise ValueError(f"groups: expected at most {check.MAX_COLUMNS} inputs in all, got {n_inputs}")
        axes = ("T", "B") if offsets is None else ("sum of lengths",)
        inputs = check.array("x", x, (*axes, n_inputs), "kernel", dtype)
        sequences = _sequence_layout(inputs, lengths, offsets, bool(reverse))
        check.check_step_overflow("x", sequences.n_steps, sequences.n_batch, max(n_inputs, n_columns))
        state_shape = sequences.n_batch, n_units
        state = np.zeros(state_shape, dtype) if h0 is None else check.array("h0", h0, state_shape, "kernel", dtype)
        index = check.activation_index(activation)
        return cls(inputs, state, weights, sequences, groups, index, bool(reproducible))

    @property
    def y_shape(self) -> tuple[int, ...]:
        """(T, B, N), or of ragged values (sum of lengths, N)."""
        return self.sequences.shape(self.h0.shape[1])

    def threads(self, num_threads: int | None, passes: int = 1, max_threads: int | None = None) -> threads.Threads:
        """The threads of a call that costs `passes` forward passes.

        `max_threads` limits the number of a call for which neither `num_threads` nor the environment names one.
        """
        requested = threads.requested(num_threads)
        count = threads.count(requested, passes * forward_work(self.sequences.n_valid_steps, self.weights.kernel))
        if max_threads is not None and requested is None:
            count = min(count, max_threads)
        return threads.Threads(count, requested is None)

    def check_out(self, name: str, out: object, shape: tuple[int, ...], others: dict[str, Array]) -> None:
        """Check an output array: its shape, and that it shares no memory with the arguments and `others`."""
        check.out(name, out, shape, self.x.dtype, {"x": self.x, **self.weights._asdict(), **others})


def _sequence_layout(x: Array, lengths: object, offsets: object, reverse: bool) -> SequenceLayout:
    if offsets is None:
        n_steps, n_batch, _ = x.shape
        lengths = None if lengths is None else check.lengths("lengths", lengths, n_steps, n_batch)
        sequences = SequenceLayout.padded(n_steps, n_batch, lengths)
    elif lengths is None:
        sequences = SequenceLayout.ragged(check.offsets("offsets", offsets, len(x)), len(x))
    else:
        raise ValueError("lengths: expected None with offsets, which imply the lengths, got both: pass one of the two")
    return sequences.reversed() if reverse else sequences
